# Google's API client for Python (googleapiclient), which makes its methods from a discovery document. It prints "ok STEP" after each step.
import json
import os
import time

import google_auth_httplib2
from google.oauth2.credentials import Credentials
from googleapiclient.discovery import build_from_document
from googleapiclient.errors import HttpError

with open(os.environ["TOKEN_FILE"]) as f:
    credentials = Credentials(f.read().strip())


def method(name, http_method, path, query=(), body=False):
    parameters = {p: {"type": "string", "location": "path", "required": True} for p in ("parent", "name") if "{+%s}" % p in path}
    parameters.update({p: {"type": "string", "location": "query"} for p in query})
    m = {"id": "redis." + name, "httpMethod": http_method, "path": path, "parameters": parameters, "response": {"$ref": "Any"}}
    if body:
        m["request"] = {"$ref": "Any"}
    return m


# The part of the managed service's document that is called below.
document = {
    "name": "redis", "version": "v1", "rootUrl": os.environ["REST"] + "/", "servicePath": "", "batchPath": "batch",
    "schemas": {"Any": {"id": "Any", "type": "object", "additionalProperties": {"type": "any"}}},
    "parameters": {p: {"type": "string", "location": "query"} for p in ("fields", "alt", "prettyPrint")},
    "resources": {
        "instances": {"methods": {
            "create": method("create", "POST", "v1/{+parent}/instances", ["instanceId"], True),
            "get": method("get", "GET", "v1/{+name}"),
            "patch": method("patch", "PATCH", "v1/{+name}", ["updateMask"], True),
            "delete": method("delete", "DELETE", "v1/{+name}"),
            "upgrade": method("upgrade", "POST", "v1/{+name}:upgrade", [], True),
        }},
        "operations": {"methods": {"list": method("list", "GET", "v1/{+name}/operations", ["filter"])}},
    },
}
redis = build_from_document(json.dumps(document), http=google_auth_httplib2.AuthorizedHttp(credentials))
instances, operations = redis.instances(), redis.operations()
parent = "projects/my-project/locations/us-central1"
name = parent + "/instances/python"

op = instances.create(parent=parent, instanceId="python", body={"tier": "BASIC", "memorySizeGb": 1, "persistenceConfig": {"rdbSnapshotPeriod": "SIX_HOURS"}}).execute()
assert op["done"], op
print("ok create")

got = instances.get(name=name, fields="tier,persistenceConfig/persistenceMode", prettyPrint="false").execute()
assert got == {"tier": "BASIC", "persistenceConfig": {"persistenceMode": "RDB"}}, got
print("ok fields")

# A URL of more than 2,048 bytes is sent as POST, with the method in a header and the query in the body.
long = "verb=create AND " * 50 + "done=true"
got = operations.list(name=parent, filter=long, fields="operations/" + ",operations/".join(["done", "metadata(verb)"] * 50)).execute()
assert got == {"operations": [{"done": True, "metadata": {"verb": "create"}}]}, got
print("ok long query")

answers = {}
batch = redis.new_batch_http_request(callback=lambda id, answer, error: answers.__setitem__(id, error.resp.status if error else answer))
batch.add(instances.get(name=name, fields="tier"), request_id="there")
batch.add(instances.get(name=name + "-not"), request_id="not there")
batch.add(instances.patch(name=name, updateMask="labels", body={"labels": {"a": "b"}}), request_id="patch")
batch.execute()
assert answers["there"] == {"tier": "BASIC"} and answers["not there"] == 404 and answers["patch"]["metadata"]["verb"] == "update", answers
while operations.list(name=parent, filter="done=false").execute().get("operations"): # the answers in a batch wait for nothing
    time.sleep(0.05)
print("ok batch")

try:
    instances.upgrade(name=name, body={}).execute(num_retries=5)
    raise AssertionError("an upgrade to nothing was accepted")
except HttpError as e: # after 501 it would have been tried five times
    assert e.resp.status == 400 and b"redis_version: is required" in e.content, e.content
print("ok refusal")

assert instances.delete(name=name).execute()["done"]
print("ok delete")
