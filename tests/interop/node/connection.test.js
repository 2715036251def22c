// The connection: health, keepalive, and a router that stops.
'use strict';

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const { once } = require('node:events');
const net = require('node:net');
const { before, test } = require('node:test');
const protobuf = require('protobufjs');
const { ROUND_ROBIN, ROUTERS, ask, balanced, client, grpc } = require('./connect.js');
const { bytes, get, keyspace, pause, put, until } = require('./support.js');

const SYNC = 'node-connection';
before(() => keyspace(SYNC, { mode: 'sync', groups: 3 }));

// The standard health service.
const standard = protobuf.parse(`syntax = "proto3"; package grpc.health.v1;
  message HealthCheckRequest { string service = 1; }
  message HealthCheckResponse { int32 status = 1; }`).root;
const codec = (name) => {
  const type = standard.lookupType(`grpc.health.v1.${name}`);
  return [(message) => Buffer.from(type.encode(type.create(message)).finish()), (encoded) => type.decode(encoded)];
};
const method = (name, responseStream) => {
  const [requestSerialize, requestDeserialize] = codec('HealthCheckRequest');
  const [responseSerialize, responseDeserialize] = codec('HealthCheckResponse');
  const path = `/grpc.health.v1.Health/${name}`;
  return { path, requestStream: false, responseStream, requestSerialize, requestDeserialize, responseSerialize, responseDeserialize };
};
const Health = grpc.makeGenericClientConstructor({ Check: method('Check', false), Watch: method('Watch', true) }, 'Health');
const SERVING = 1;

test('health: check and watch', async (t) => {
  const health = new Health(ROUTERS[0], grpc.credentials.createInsecure());
  t.after(() => health.close());
  for (const service of ['', 'fulcrum.v1.Kv', 'fulcrum.v1.Transactions', 'fulcrum.v1.Admin']) {
    assert.equal((await ask(health, 'Check', { service })).status, SERVING, service);
  }
  const watching = health.Watch({ service: '' });
  watching.on('error', (error) => assert.equal(error.code, grpc.status.CANCELLED));
  const [first] = await once(watching, 'data');
  assert.equal(first.status, SERVING);
  watching.cancel();
});

test('keepalive: pings are not punished', async () => {
  const eager = { 'grpc.keepalive_time_ms': 100, 'grpc.keepalive_timeout_ms': 2000, 'grpc.keepalive_permit_without_calls': 1 };
  const kv = client('Kv', undefined, eager);
  await ask(kv, 'Put', put(SYNC, 'pinged', '0'));
  const watching = kv.Watch({ keyspace: SYNC, key: bytes('pinged') });
  const broken = [];
  let told = false;
  watching.on('error', (error) => error.code !== grpc.status.CANCELLED && broken.push(error));
  watching.on('data', (message) => {
    told ||= message.changes.length > 0;
  });
  await pause(4000);
  await ask(kv, 'Put', put(SYNC, 'pinged', '1'));
  await until(() => told);
  assert.deepEqual(broken, []);
  watching.cancel();
});

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

test('drain: a router that stops fails no call', async () => {
  const address = `127.0.0.1:${await freePort()}`;
  const { FULCRUM_ROUTER_PROGRAM, FULCRUM_ETCD_URL, FULCRUM_CLUSTER_ID } = process.env;
  const flags = ['--etcd', FULCRUM_ETCD_URL, '--cluster-id', FULCRUM_CLUSTER_ID, '--listen', address];
  const leaving = spawn(FULCRUM_ROUTER_PROGRAM, [...flags, '--metrics-listen', `127.0.0.1:${await freePort()}`], { stdio: 'ignore' });
  const ended = once(leaving, 'exit');
  try {
    const alone = client('Kv', address);
    await new Promise((resolve, reject) => alone.waitForReady(Date.now() + 20000, (late) => (late ? reject(late) : resolve())));
    alone.close();
    const kv = client('Kv', balanced([address, ROUTERS[0]]), ROUND_ROBIN);
    const done = Array(8).fill(0);
    const failed = [];
    let over = false;
    const work = async (number) => {
      while (!over) {
        try {
          await ask(kv, 'Put', put(SYNC, `drain/${number}`, `${done[number]}`), { deadline: 10000 });
          const read = await ask(kv, 'Get', get(SYNC, `drain/${number}`), { deadline: 10000 });
          assert.equal(read.value.value.toString(), `${done[number]}`);
          done[number] += 1;
        } catch (error) {
          failed.push(error);
        }
      }
    };
    const workers = done.map((_, number) => work(number));
    await pause(1000);
    leaving.kill('SIGTERM');
    await ended;
    const then = [...done];
    await until(() => done.every((now, number) => now > then[number] + 5));
    over = true;
    await Promise.all(workers);
    kv.close();
    assert.deepEqual(failed, []);
  } finally {
    if (leaving.exitCode === null && leaving.signalCode === null) leaving.kill('SIGKILL');
  }
});
