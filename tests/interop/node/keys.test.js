// Single keys, batches, levels, receipts, errors: what is written is read, and every answer says what it is worth.
'use strict';

const assert = require('node:assert/strict');
const { before, test } = require('node:test');
const { LARGE, ROUTERS, ask, client, grpc } = require('./connect.js');
const { LEVELS, bytes, details, get, keyspace, merged, put, refused, until, write } = require('./support.js');

const SYNC = 'node-keys';
let kv;
before(async () => {
  kv = client('Kv', undefined, LARGE);
  await keyspace(SYNC, { mode: 'sync', groups: 6 });
  await keyspace('node-async', { mode: 'async', groups: 3 });
});

test('get, put, delete: a value is put, read and deleted', async () => {
  assert.equal((await ask(kv, 'Get', get(SYNC, 'cycle'))).value, null);
  const first = await ask(kv, 'Put', put(SYNC, 'cycle', 'one'));
  assert.equal(first.outcome.applied.existed, false);
  const second = await ask(kv, 'Put', put(SYNC, 'cycle', 'two'));
  assert.equal(second.outcome.applied.existed, true);
  const read = await ask(kv, 'Get', get(SYNC, 'cycle'));
  assert.equal(read.value.value.toString(), 'two');
  assert.equal(read.value.version, second.outcome.applied.version);
  assert.ok((await ask(kv, 'Delete', { keyspace: SYNC, key: bytes('cycle') })).outcome.applied.existed);
  assert.equal((await ask(kv, 'Get', get(SYNC, 'cycle'))).value, null);
});

test('compare-and-set: a condition that does not hold is an outcome', async () => {
  const made = await ask(kv, 'Put', put(SYNC, 'cas', '1', { condition: { absent: {} } }));
  const again = await ask(kv, 'Put', put(SYNC, 'cas', '2', { condition: { absent: {} } }));
  assert.equal(again.outcome.outcome, 'condition_failed');
  assert.equal(again.outcome.condition_failed.current_version, made.outcome.applied.version);
  const { version } = made.outcome.applied;
  const swapped = await ask(kv, 'Put', put(SYNC, 'cas', '2', { condition: { version } }));
  assert.equal(swapped.outcome.outcome, 'applied');
  const stale = await ask(kv, 'Put', put(SYNC, 'cas', '3', { condition: { version } }));
  assert.equal(stale.outcome.outcome, 'condition_failed');
});

test('time to live: a value expires', async () => {
  await ask(kv, 'Put', put(SYNC, '{ttl}brief', 'v', { ttl_ms: 600 }));
  assert.notEqual((await ask(kv, 'Get', get(SYNC, '{ttl}brief'))).value, null);
  // Nobody writes: the group's time goes on by itself.
  await until(async () => (await ask(kv, 'Get', get(SYNC, '{ttl}brief'))).value === null, 5000);
});

test('batches: an answer for each write and key', async () => {
  const keys = Array.from({ length: 40 }, (_, number) => `batch/${number}`);
  const written = await ask(kv, 'BatchWrite', { keyspace: SYNC, writes: keys.map((key) => write(key, `v${key}`)) });
  assert.ok(written.items.every((item) => item.outcome.outcome === 'applied'));
  const asked = { keyspace: SYNC, keys: [...keys, 'batch/none'].map(bytes), options: { consistency: LEVELS.linearizable } };
  const read = await ask(kv, 'BatchGet', asked);
  assert.deepEqual(read.items.slice(0, 40).map((item) => item.value.value.toString()), keys.map((key) => `v${key}`));
  assert.equal(read.items[40].result, 'missing');
});

test('receipts: a write and a read say what they are worth', async () => {
  const { receipt } = await ask(kv, 'Put', put(SYNC, 'receipt', 'v'));
  assert.equal(receipt.mode, 'MODE_SYNC');
  assert.equal(receipt.role, 'ROLE_PRIMARY');
  assert.ok(receipt.durable && receipt.acknowledged_by.length >= 2);
  const read = (await ask(kv, 'Get', get(SYNC, 'receipt'))).receipt;
  assert.equal(read.achieved.level, 'linearizable');
  assert.equal(read.group, receipt.group);
  assert.ok(BigInt(read.index) >= BigInt(receipt.index));
  assert.match(read.basis, /^STALENESS_BASIS_(LEASE|CONFIRMING_ROUND)$/);
});

test('levels and sessions: every level is served, and a session reads its own writes at any router', async () => {
  for (const [name, level] of Object.entries(LEVELS)) {
    const read = await ask(kv, 'Get', get(SYNC, 'receipt', level));
    assert.deepEqual(read.receipt.achieved, read.receipt.asked, name);
  }
  const other = client('Kv', ROUTERS[1]);
  const token = { map_version: '0', groups: {} };
  for (let turn = 0; turn < 30; turn += 1) {
    const [writer, reader] = turn % 2 ? [kv, other] : [other, kv];
    merged(token, (await ask(writer, 'Put', put(SYNC, 'own', `${turn}`, { session: token }))).receipt);
    const read = await ask(reader, 'Get', get(SYNC, 'own', LEVELS.session, { session: token }));
    assert.equal(read.value.value.toString(), `${turn}`);
    merged(token, read.receipt);
  }
  other.close();
  const illegal = await refused(ask(kv, 'Get', get('node-async', 'k')));
  assert.equal(details(illegal).code, 'ILLEGAL_LEVEL');
});

test('idempotent retries: a write that is sent again is applied once', async () => {
  const { client: id, issued_at_ms } = await ask(kv, 'OpenSession', {});
  const idempotency = { client: id, sequence: 1, issued_at_ms, low_water: 1 };
  const mine = put(SYNC, 'once', 'mine', { idempotency, condition: { absent: {} } });
  const first = await ask(kv, 'Put', mine);
  await ask(kv, 'Put', put(SYNC, 'once', "another's"));
  assert.deepEqual((await ask(kv, 'Put', mine)).outcome, first.outcome);
  assert.equal((await ask(kv, 'Get', get(SYNC, 'once'))).value.value.toString(), "another's");
  const known = await ask(kv, 'GetOutcome', { keyspace: SYNC, key: bytes('once'), idempotency });
  assert.equal(known.state, 'STATE_KNOWN');
});

test('large values: the largest, a batch of them, and what is too large', async () => {
  const value = Buffer.alloc(1024 * 1024);
  await ask(kv, 'Put', put(SYNC, 'large', value));
  assert.equal((await ask(kv, 'Get', get(SYNC, 'large'))).value.value.length, value.length);
  const writes = Array.from({ length: 7 }, (_, number) => write(`large/${number}`, value));
  const written = await ask(kv, 'BatchWrite', { keyspace: SYNC, writes });
  assert.ok(written.items.every((item) => item.outcome.outcome === 'applied'));
  const read = await ask(kv, 'BatchGet', { keyspace: SYNC, keys: writes.map(({ key }) => key) });
  assert.ok(read.items.every((item) => item.value.value.length === value.length));
  const error = await refused(ask(kv, 'Put', put(SYNC, 'larger', Buffer.alloc(1024 * 1024 + 1))));
  assert.equal(error.code, grpc.status.INVALID_ARGUMENT);
});

test('errors with details: who must act, and why', async () => {
  const unknown = await refused(ask(kv, 'Get', get('nowhere', 'k')));
  assert.equal(unknown.code, grpc.status.NOT_FOUND);
  assert.deepEqual([details(unknown).code, details(unknown).act], ['UNKNOWN_KEYSPACE', 'ACT_REJECT']);
  const invalid = await refused(ask(kv, 'Get', get(SYNC, '')));
  assert.equal(details(invalid).code, 'INVALID');
});

test('deadlines: they end a call, and the server honours them', async () => {
  const ended = await refused(
    new Promise((_, reject) => {
      kv.Watch({ keyspace: SYNC, prefix: bytes('never/') }, new grpc.Metadata(), { deadline: Date.now() + 300 })
        .on('data', () => {})
        .on('error', reject);
    }),
  );
  assert.equal(ended.code, grpc.status.DEADLINE_EXCEEDED);
  const late = await refused(ask(kv, 'Put', put(SYNC, 'late', 'v'), { deadline: -1000 }));
  assert.equal(late.code, grpc.status.DEADLINE_EXCEEDED);
  assert.equal((await ask(kv, 'Get', get(SYNC, 'late'))).value, null);
});

test('compression: what is compressed is refused in words', async () => {
  const gzip = client('Kv', undefined, { 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip });
  const error = await refused(ask(gzip, 'Put', put(SYNC, 'gzip', 'v'.repeat(1000))));
  gzip.close();
  assert.equal(error.code, grpc.status.UNIMPLEMENTED);
  assert.match(error.details, /gzip/);
});
