// buf curl: a client that knows nothing of Fulcrum, has no protocol buffers, and asks for everything by reflection.
'use strict';

const assert = require('node:assert/strict');
const { execFile } = require('node:child_process');
const { before, test } = require('node:test');

const SERVER = `http://${process.env.FULCRUM_ROUTERS.split(',')[0]}`;
const NODE = `http://${process.env.FULCRUM_NODES.split(',')[0]}`;
const CURL = ['curl', '--protocol', 'grpc'];
const PLAIN = [...CURL, '--http2-prior-knowledge'];
const SYNC = 'buf-sync';
const b64 = (text) => Buffer.from(text).toString('base64');

/** What buf prints, and its exit code: eight times the status. */
function run(flags, within = 30000) {
  return new Promise((resolve) => {
    execFile(process.env.FULCRUM_BUF, flags, { timeout: within, maxBuffer: 64 << 20 }, (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, stdout, stderr }),
    );
  });
}

const buf = (flags) => run([...PLAIN, ...flags]);
const encrypted = (flags) => run([...CURL, ...flags]);

/** JSON documents, one behind the other. */
function documents(text) {
  return text
    .trim()
    .split(/\n(?=\{)/)
    .map((one) => JSON.parse(one));
}

async function call(method, message) {
  const { code, stdout, stderr } = await buf(['-d', JSON.stringify(message), `${SERVER}/fulcrum.v1.${method}`]);
  assert.equal(code, 0, stderr);
  return documents(stdout);
}

before(async () => {
  await call('Admin/CreateKeyspace', { name: SYNC, spec: { mode: 'sync', groups: 3 } });
  for (;;) {
    const [{ groups }] = await call('Admin/Status', { keyspace: SYNC });
    if (groups?.every((group) => group.ready)) return;
  }
});

test('reflection: services and methods are listed', async () => {
  const services = (await buf(['--list-services', SERVER])).stdout.split('\n');
  for (const service of ['fulcrum.v1.Kv', 'fulcrum.v1.Transactions', 'fulcrum.v1.Admin', 'grpc.health.v1.Health']) {
    assert.ok(services.includes(service), service);
  }
  assert.ok(!services.some((service) => service.startsWith('fulcrum.internal')), 'a router does not serve them');
  assert.ok((await buf(['--list-methods', SERVER])).stdout.includes('fulcrum.v1.Kv/Get'));
});

test('reflection: by the older protocol, and of a shard-node', async () => {
  const older = await buf(['--reflect-protocol', 'grpc-v1alpha', '--list-services', SERVER]);
  assert.match(older.stdout, /fulcrum\.v1\.Kv/);
  assert.match((await buf(['--list-services', NODE])).stdout, /fulcrum\.v1\.Kv/);
});

test('get, put, delete: by JSON', async () => {
  const [written] = await call('Kv/Put', { keyspace: SYNC, key: b64('k'), value: b64('v') });
  assert.ok(written.outcome.applied.version);
  const options = { consistency: { linearizable: {} } };
  const [read] = await call('Kv/Get', { keyspace: SYNC, key: b64('k'), options });
  assert.equal(read.value.value, b64('v'));
  const [deleted] = await call('Kv/Delete', { keyspace: SYNC, key: b64('k') });
  assert.equal(deleted.outcome.applied.existed, true);
  assert.equal((await call('Kv/Get', { keyspace: SYNC, key: b64('k'), options }))[0].value, undefined);
});

test('receipts: words, not numbers', async () => {
  const [{ receipt }] = await call('Kv/Put', { keyspace: SYNC, key: b64('receipt'), value: b64('v') });
  assert.equal(receipt.mode, 'MODE_SYNC');
  assert.equal(receipt.durable, true);
  const [read] = await call('Kv/Get', { keyspace: SYNC, key: b64('receipt'), options: { consistency: { bounded_ms: 500 } } });
  assert.deepEqual(read.receipt.achieved, { boundedMs: '500' });
});

test('compare-and-set: a condition that does not hold is an outcome', async () => {
  const put = { keyspace: SYNC, key: b64('cas'), value: b64('v'), condition: { absent: {} } };
  assert.ok((await call('Kv/Put', put))[0].outcome.applied);
  assert.ok((await call('Kv/Put', put))[0].outcome.conditionFailed);
});

test('scan: a stream of pages', async () => {
  const writes = Array.from({ length: 1000 }, (_, number) => ({ key: b64(`row/${number}`), put: { value: b64('v') } }));
  await call('Kv/BatchWrite', { keyspace: SYNC, writes });
  const pages = await call('Kv/Scan', { keyspace: SYNC, prefix: b64('row/') });
  assert.equal(pages.flatMap((page) => page.rows).length, 1000);
});

test('pipeline: a stream both ways', async () => {
  const message = (id) => JSON.stringify({ ops: [{ id, get: { keyspace: SYNC, key: b64('row/1') } }] });
  const { code, stdout, stderr } = await buf(['-d', `${message(1)}\n${message(2)}`, `${SERVER}/fulcrum.v1.Kv/Pipeline`]);
  assert.equal(code, 0, stderr);
  const ids = documents(stdout).flatMap((response) => response.answers.map((answer) => answer.id));
  assert.deepEqual(ids.sort(), ['1', '2']);
});

test('transactions: one commit', async () => {
  const [session] = await call('Kv/OpenSession', {});
  const id = { begun_at_ms: session.issuedAtMs, client: session.client, sequence: 1 };
  const writes = ['a', 'b'].map((key) => ({ keyspace: SYNC, write: { key: b64(key), put: { value: b64('v') } } }));
  assert.equal((await call('Transactions/Commit', { id, writes }))[0].committed.versions.length, 2);
});

test('errors with details: code, words, and our message as it is', async () => {
  const message = JSON.stringify({ keyspace: 'nowhere', key: b64('k') });
  const { code, stderr } = await buf(['-d', message, `${SERVER}/fulcrum.v1.Kv/Get`]);
  assert.equal(code, 5 * 8, 'NOT_FOUND');
  const error = JSON.parse(stderr);
  assert.equal(error.code, 'not_found');
  assert.equal(error.details[0].type, 'fulcrum.v1.Error');
  assert.match(Buffer.from(error.details[0].value, 'base64').toString(), /UNKNOWN_KEYSPACE/);
});

test('health: check', async () => {
  const { stdout } = await buf(['-d', '{"service": "fulcrum.v1.Kv"}', `${SERVER}/grpc.health.v1.Health/Check`]);
  assert.equal(JSON.parse(stdout).status, 'SERVING');
});

const SECURED = `https://${process.env.FULCRUM_SECURED_ROUTER}`;
const CERTS = process.env.FULCRUM_CERTS;
const ROOT = process.env.FULCRUM_ROOT_TOKEN;
const AUTHORITY = ['--cacert', `${CERTS}/ca.pem`];
const CERTIFICATE = ['--cert', `${CERTS}/client.pem`, '--key', `${CERTS}/client.key`];
const bearer = (token) => ['-H', `authorization: Bearer ${token}`];
const listing = (...flags) => encrypted([...flags, '-d', '{}', `${SECURED}/fulcrum.v1.Admin/ListKeyspaces`]);

test('mutual TLS: only the right certificates open', async () => {
  const token = bearer(ROOT);
  const open = await listing(...AUTHORITY, ...CERTIFICATE, ...token);
  assert.equal(open.code, 0, open.stderr);
  assert.notEqual((await listing(...AUTHORITY, ...token)).code, 0, 'without a certificate');
  const stranger = process.env.FULCRUM_STRANGERS;
  const shown = ['--cert', `${stranger}/client.pem`, '--key', `${stranger}/client.key`];
  assert.notEqual((await listing(...AUTHORITY, ...shown, ...token)).code, 0, 'with a certificate of another authority');
});

test('tokens: none, and one that is none', async () => {
  for (const shown of [[], bearer('nonsense')]) {
    const { code, stderr } = await listing(...AUTHORITY, ...CERTIFICATE, ...shown);
    assert.equal(code, 16 * 8, `UNAUTHENTICATED, not: ${stderr}`);
  }
});
