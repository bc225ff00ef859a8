// Every method of @google-cloud/redis, over gRPC ("grpc") or REST ("rest"), without TLS. The token is added as docs/api.md says.
// It prints "ok STEP" after each step.
import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import redis from '@google-cloud/redis';
import {OAuth2Client} from 'google-auth-library';
import {grpc} from 'google-gax';

const {TRANSPORT, GRPC, REST, TOKEN_FILE, VERSION} = process.env;
const token = readFileSync(TOKEN_FILE, 'utf8').trim();

function options() {
  const authClient = new OAuth2Client();
  authClient.setCredentials({access_token: token});
  const [apiEndpoint, port] = (TRANSPORT === 'rest' ? new URL(REST).host : GRPC).split(':');
  const common = {authClient, apiEndpoint, port: Number(port), projectId: 'my-project'};
  if (TRANSPORT === 'rest') return {...common, fallback: true, protocol: 'http'};
  return {
    ...common,
    sslCreds: grpc.credentials.createInsecure(),
    // gRPC sends no credentials without TLS, so the token is put into each call, those that look at operations included.
    'grpc.callInvocationTransformer': call => {
      call.metadata.set('authorization', `Bearer ${token}`);
      return call;
    },
  };
}

const client = new redis[VERSION].CloudRedisClient(options());
const parent = client.locationPath('my-project', 'us-central1');
const id = `node-${TRANSPORT}-${VERSION}`;
const name = `${parent}/instances/${id}`;
const step = async (what, f) => {
  await f();
  console.log('ok ' + what);
};
const refused = async (call, words) => {
  await assert.rejects(call, err => {
    assert.match(err.message, words);
    return true;
  });
};

await step('create', async () => {
  const [op] = await client.createInstance({
    parent, instanceId: id,
    instance: {name, tier: 'BASIC', memorySizeGb: 1, authEnabled: true, transitEncryptionMode: 'SERVER_AUTHENTICATION', labels: {team: 'web'},
      redisConfigs: {'maxmemory-policy': 'allkeys-lru'}, persistenceConfig: {rdbSnapshotPeriod: 'SIX_HOURS'}},
  });
  const [made] = await op.promise();
  assert.equal(made.port, 6378); // this library shows the enums of an operation's result as numbers
  // A program that was restarted meanwhile finds the operation by its name.
  const found = await client.checkCreateInstanceProgress(op.name);
  assert.equal(found.done, true);
  assert.equal(found.result.host, made.host);
});
await step('get and list', async () => {
  const [got] = await client.getInstance({name});
  assert.deepEqual([got.state, got.tier, got.labels.team, got.persistenceConfig.persistenceMode], ['READY', 'BASIC', 'web', 'RDB']);
  assert.equal(got.serverCaCerts.length, 1);
  const [auth] = await client.getInstanceAuthString({name});
  assert.equal(auth.authString.length, 36);
  const names = [];
  for await (const i of client.listInstancesAsync({parent: 'projects/my-project/locations/-', pageSize: 1})) names.push(i.name);
  assert.ok(names.includes(name));
});
await step('update', async () => {
  for (const [path, instance] of Object.entries({
    display_name: {displayName: 'x'}, labels: {}, memory_size_gb: {memorySizeGb: 2}, redis_configs: {redisConfigs: {timeout: '9'}}, auth_enabled: {authEnabled: false},
    persistence_config: {persistenceConfig: {persistenceMode: 'DISABLED'}}, replica_count: {},
    maintenance_policy: {maintenancePolicy: {weeklyMaintenanceWindow: [{day: 'SUNDAY', startTime: {minutes: 30}}]}},
  })) {
    const [op] = await client.updateInstance({updateMask: {paths: [path]}, instance: {name, ...instance}});
    await op.promise();
    assert.equal((await client.checkUpdateInstanceProgress(op.name)).done, true);
  }
  const [got] = await client.getInstance({name});
  assert.deepEqual([got.displayName, got.memorySizeGb, got.redisConfigs, got.labels, got.authEnabled, got.persistenceConfig.persistenceMode],
    ['x', 2, {timeout: '9'}, {}, false, 'DISABLED']);
  assert.equal(got.maintenancePolicy.weeklyMaintenanceWindow[0].startTime.minutes, 30);
});
await step('refusals', async () => {
  await refused(client.updateInstance({updateMask: {paths: ['replica_count']}, instance: {name, replicaCount: 2}}), /replicas are of tier STANDARD_HA/);
  await refused(client.updateInstance({updateMask: {paths: ['tier']}, instance: {name, tier: 'STANDARD_HA'}}), /immutable/);
  await refused(client.failoverInstance({name}), /has no replica/);
  await refused(client.upgradeInstance({name}), /redis_version: is required/);
  await refused(client.importInstance({name, inputConfig: {}}), /input_config.gcs_source.uri/);
  await refused(client.exportInstance({name, outputConfig: {}}), /output_config.gcs_destination.uri/);
  await refused(client.rescheduleMaintenance({name, rescheduleType: 'IMMEDIATE'}), /nothing to reschedule/);
});
await step('operations and locations', async () => {
  if (VERSION !== 'v1') return; // v1beta1's client has no methods for them
  const ops = [];
  for await (const op of client.listOperationsAsync({name: parent})) ops.push(op);
  assert.ok(ops.length > 0);
  // Over REST this library knows no type LocationMetadata, so it can't read the answer of the managed service either.
  if (TRANSPORT === 'rest') return;
  const [location] = await client.getLocation({name: parent});
  assert.equal(location.locationId, 'us-central1');
});
await step('delete', async () => {
  const [op] = await client.deleteInstance({name});
  await op.promise();
  await refused(client.getInstance({name}), /was not found/);
});
await client.close();
