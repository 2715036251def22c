// Transactions: read, commit, conflict, run again under a new id, and what became of one.
'use strict';

const assert = require('node:assert/strict');
const { before, test } = require('node:test');
const { ask, client, grpc } = require('./connect.js');
const { bytes, details, get, keyspace, put, refused, write } = require('./support.js');

const SYNC = 'node-transactions';
let kv;
let transactions;
let attempt;
before(async () => {
  kv = client('Kv');
  transactions = client('Transactions');
  await keyspace(SYNC, { mode: 'sync', groups: 6 });
  const { client: id, issued_at_ms } = await ask(kv, 'OpenSession', {});
  const opened = process.hrtime.bigint();
  let sequence = 0;
  attempt = () => {
    sequence += 1;
    const passed = (process.hrtime.bigint() - opened) / 1_000_000n;
    return { begun_at_ms: (BigInt(issued_at_ms) + passed).toString(), client: id, sequence };
  };
});

const ref = (key) => ({ keyspace: SYNC, key: bytes(key) });
const keyWrite = (key, value) => ({ keyspace: SYNC, write: write(key, value) });
const checked = (key, seen) => ({ ...ref(key), version: seen.version, exists: seen.value !== null });

test('transactions: what was read and written takes effect at one moment', async () => {
  await ask(kv, 'Put', put(SYNC, 'alice', '100'));
  const id = attempt();
  const { observed } = await ask(transactions, 'Read', { id, keys: [ref('alice'), ref('bob')] });
  const commit = {
    id,
    reads: [checked('alice', observed[0]), checked('bob', observed[1])],
    writes: [keyWrite('alice', '60'), keyWrite('bob', '40')],
  };
  const done = await ask(transactions, 'Commit', commit);
  assert.equal(done.outcome, 'committed');
  assert.deepEqual((await ask(transactions, 'Commit', commit)).committed.versions, done.committed.versions);
  const both = await ask(transactions, 'Read', { id: attempt(), keys: [ref('alice'), ref('bob')], consistent: true });
  assert.deepEqual(both.observed.map((one) => one.value.value.toString()), ['60', '40']);
  const became = await ask(transactions, 'GetOutcome', { id, first_written: ref('alice') });
  assert.equal(became.state, 'STATE_COMMITTED');
});

test('transactions: a conflict aborts, and a new attempt commits', async () => {
  await ask(kv, 'Put', put(SYNC, 'contended', '0'));
  const first = attempt();
  const run = async (id, between, first_attempt) => {
    const { observed } = await ask(transactions, 'Read', { id, keys: [ref('contended')] });
    await between();
    const reads = [checked('contended', observed[0])];
    return ask(transactions, 'Commit', { id, first_attempt, reads, writes: [keyWrite('contended', 'mine')] });
  };
  const aborted = await refused(run(first, () => ask(kv, 'Put', put(SYNC, 'contended', "another's"))));
  assert.equal(aborted.code, grpc.status.ABORTED);
  assert.equal(details(aborted).act, 'ACT_ABORT');
  assert.equal(details(aborted).abort.kind, 'KIND_READ_INVALIDATED');
  assert.equal((await run(attempt(), () => {}, first)).outcome, 'committed');
  assert.equal((await ask(kv, 'Get', get(SYNC, 'contended'))).value.value.toString(), 'mine');
});

test('transactions: a condition that does not hold is an outcome', async () => {
  const conditions = [{ ...ref('alice'), condition: { absent: {} } }];
  const answered = await ask(transactions, 'Commit', { id: attempt(), conditions, writes: [keyWrite('carol', '1')] });
  assert.equal(answered.outcome, 'condition_failed');
});
