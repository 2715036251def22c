// Streams: scans page by page, watches that go on, pipelines whose answers come in any order.
'use strict';

const assert = require('node:assert/strict');
const { once } = require('node:events');
const { before, test } = require('node:test');
const { LARGE, ROUTERS, ask, client, grpc } = require('./connect.js');
const { LEVELS, bytes, get, keyspace, put, refused, sendable, until, write } = require('./support.js');

const SYNC = 'node-streams';
const ROWS = Array.from({ length: 10000 }, (_, number) => `row/${String(number).padStart(6, '0')}`);
let kv;
before(async () => {
  kv = client('Kv', undefined, LARGE);
  await keyspace(SYNC, { mode: 'sync', groups: 6 });
  for (let start = 0; start < ROWS.length; start += 1000) {
    await ask(kv, 'BatchWrite', { keyspace: SYNC, writes: ROWS.slice(start, start + 1000).map((key) => write(key, 'v')) });
  }
});

const scan = (rest) => ({ keyspace: SYNC, options: { consistency: LEVELS.linearizable }, ...rest });
const keys = (pages) => pages.flatMap((page) => page.rows.map((row) => row.key.toString()));

async function all(stream) {
  const messages = [];
  for await (const message of stream) messages.push(message);
  return messages;
}

test('scan: all pages are in order and complete, and go on behind any of them', async () => {
  const pages = await all(kv.Scan(scan({ prefix: bytes('row/') })));
  assert.ok(pages.length > 3);
  assert.deepEqual(keys(pages), ROWS);
  const other = client('Kv', ROUTERS[1]);
  const rest = await all(other.Scan(scan({ prefix: bytes('row/'), resume_token: pages[0].resume_token })));
  other.close();
  assert.deepEqual([...keys(pages.slice(0, 1)), ...keys(rest)], ROWS);
});

test('scan: one that is cancelled midway leaves the channel well', async () => {
  const scanning = kv.Scan(scan({ prefix: bytes('row/') }));
  const ended = once(scanning, 'error').catch((error) => [error]);
  await once(scanning, 'data');
  scanning.cancel();
  const [error] = await ended;
  assert.equal(error.code, grpc.status.CANCELLED);
  assert.ok((await ask(kv, 'Get', get(SYNC, ROWS[0]))).value);
});

/** A watch, what it has told, and the token to go on from. */
async function watch(of, request) {
  const call = of.Watch(request);
  const watching = { call, changes: [], token: undefined };
  call.on('error', (error) => assert.equal(error.code, grpc.status.CANCELLED));
  call.on('data', (message) => {
    if (message.start) {
      watching.token = sendable(message.start);
      return;
    }
    watching.changes.push(...message.changes);
    watching.token.groups[message.group] = message.position;
  });
  await until(() => watching.token);
  return watching;
}

test('watch: what is done from now on, and on from its token at another router', async () => {
  const watching = await watch(kv, { keyspace: SYNC, prefix: bytes('seen/') });
  const written = await ask(kv, 'Put', put(SYNC, 'seen/a', '1'));
  await ask(kv, 'Put', put(SYNC, 'unseen', '1'));
  await ask(kv, 'Delete', { keyspace: SYNC, key: bytes('seen/a') });
  await until(() => watching.changes.length === 2);
  const [putting, deleting] = watching.changes;
  assert.equal(putting.put.version, written.outcome.applied.version);
  assert.equal(putting.position.index, written.receipt.index);
  assert.equal(deleting.kind, 'deleted');
  watching.call.cancel();

  await ask(kv, 'Put', put(SYNC, 'seen/b', '2'));
  const other = client('Kv', ROUTERS[1]);
  const resumed = await watch(other, { keyspace: SYNC, prefix: bytes('seen/'), from: watching.token });
  await until(() => resumed.changes.length === 1);
  assert.equal(resumed.changes[0].key.toString(), 'seen/b');
  resumed.call.cancel();
  other.close();
});

test('pipeline: a thousand operations on one stream, answered by id', async () => {
  const pipeline = kv.Pipeline();
  const answers = new Map();
  const order = [];
  const over = once(pipeline, 'end');
  pipeline.on('data', (response) => {
    const reads = [];
    for (const answer of response.answers) {
      const id = Number(answer.id);
      assert.ok(!answers.has(id), 'one answer each');
      answers.set(id, answer);
      order.push(id);
      // It is written: now it is read.
      if (id < 500) reads.push({ id: 500 + id, get: get(SYNC, `pipe/${id}`) });
    }
    if (reads.length > 0) pipeline.write({ ops: reads });
    if (answers.size === 1000) pipeline.end();
  });
  for (let start = 0; start < 500; start += 50) {
    const ops = Array.from({ length: 50 }, (_, at) => ({ id: start + at, put: put(SYNC, `pipe/${start + at}`, `${start + at}`) }));
    pipeline.write({ ops });
  }
  await over;
  assert.notDeepEqual(order, order.toSorted((a, b) => a - b), 'answers come as they are ready');
  for (let id = 0; id < 500; id += 1) {
    assert.equal(answers.get(id).write.outcome.outcome, 'applied');
    assert.equal(answers.get(500 + id).get.value.value.toString(), `${id}`);
  }
});

test('pipeline: a refused operation is refused alone', async () => {
  const pipeline = kv.Pipeline();
  pipeline.end({ ops: [{ id: 1, get: get('nowhere', 'k') }, { id: 2, get: get(SYNC, ROWS[0]) }] });
  const answers = (await all(pipeline)).flatMap((response) => response.answers);
  const by = Object.fromEntries(answers.map((answer) => [answer.id, answer]));
  assert.equal(by[1].error.code, 'UNKNOWN_KEYSPACE');
  assert.ok(by[2].get.value);
});

test('cancellation: watches that are cancelled are freed at the router', async () => {
  for (let round = 0; round < 3; round += 1) {
    const watches = await Promise.all(Array.from({ length: 40 }, () => watch(kv, { keyspace: SYNC, key: bytes('freed') })));
    watches.forEach(({ call }) => call.cancel());
  }
  const error = await refused(
    new Promise((resolve, reject) => {
      const call = kv.Get(get(SYNC, ROWS[0]), (failed, answer) => (failed ? reject(failed) : resolve(answer)));
      call.cancel();
    }),
  );
  assert.equal(error.code, grpc.status.CANCELLED);
});

test('many streams: more than a connection takes are answered in turn', async () => {
  const reads = await Promise.all(Array.from({ length: 2000 }, () => ask(kv, 'Get', get(SYNC, ROWS[1]), { deadline: 60000 })));
  assert.ok(reads.every((read) => read.value.value.toString() === 'v'));
});
