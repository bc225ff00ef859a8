#!/bin/sh
# versitygw answers a request by an unknown access key with 404, as if the object were not there.
#
# Version: github.com/versity/versitygw v1.8.0, curl 7.88.1.
# Behaviour: Amazon S3 answers 403 InvalidAccessKeyId to a key that it does not know. versitygw answers 404 XAdminUserNotFound, a code of its
# own, for every request. A wrong secret of a known key is 403 SignatureDoesNotMatch, and no credentials are 403 AccessDenied, as in S3.
# For whoever tells "there is no such object" from "who are you" by the status: a server that speaks S3 may say 404 to both. A HEAD has no
# body, so there the code is missing too, and clients that make an object where none is seem to be welcome.
#
# Output seen:
#   right key: 404 NoSuchKey
#   unknown key: 404 XAdminUserNotFound
#   wrong secret: 403 SignatureDoesNotMatch
#   none: 403 AccessDenied
set -eu
dir=$(mktemp -d)
pid=
trap '[ -z "$pid" ] || { kill "$pid"; wait "$pid" 2>/dev/null || true; }; rm -rf "$dir"' EXIT
CGO_ENABLED=0 GOBIN=$dir go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
mkdir -p "$dir/data/bucket" "$dir/meta"
port=$((20000 + $$ % 20000))
ROOT_ACCESS_KEY_ID=right ROOT_SECRET_ACCESS_KEY=right-secret "$dir/versitygw" --port "127.0.0.1:$port" --quiet posix --sidecar "$dir/meta" "$dir/data" >"$dir/log" 2>&1 &
pid=$!
until curl -s -o /dev/null "http://127.0.0.1:$port/"; do kill -0 "$pid"; sleep 0.1; done
ask() { # NAME [curl's flags]
	name=$1
	shift
	status=$(curl -s -H "x-amz-content-sha256: UNSIGNED-PAYLOAD" -o "$dir/answer" -w '%{http_code}' "$@" "http://127.0.0.1:$port/bucket/object")
	echo "$name: $status $(sed -n 's|.*<Code>\([^<]*\)</Code>.*|\1|p' "$dir/answer")"
}
{
	ask "right key" --aws-sigv4 aws:amz:us-east-1:s3 --user right:right-secret
	ask "unknown key" --aws-sigv4 aws:amz:us-east-1:s3 --user other:right-secret
	ask "wrong secret" --aws-sigv4 aws:amz:us-east-1:s3 --user right:wrong
	ask none
} | tee "$dir/output"
printf 'right key: 404 NoSuchKey\nunknown key: 404 XAdminUserNotFound\nwrong secret: 403 SignatureDoesNotMatch\nnone: 403 AccessDenied\n' |
	cmp -s - "$dir/output" || { echo "it has changed"; exit 1; }
