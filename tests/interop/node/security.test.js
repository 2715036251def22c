// Mutual TLS and tokens, at a cluster where nobody does anything without them.
'use strict';

const assert = require('node:assert/strict');
const { before, test } = require('node:test');
const { CERTS, STRANGERS, ROOT, SECURED, ask, client, grpc, secured } = require('./connect.js');
const { details, get, put, refused, until } = require('./support.js');

const { UNAVAILABLE, UNAUTHENTICATED, PERMISSION_DENIED } = grpc.status;
const ORDERS = 'node-secured';
const opened = (service, how) => client(service, SECURED, {}, secured(how));
const root = opened('Admin', { token: ROOT });

before(async () => {
  await ask(root, 'CreateKeyspace', { name: ORDERS, spec: { replication_factor: 1, min_in_sync: 1, groups: 2 } });
  await until(async () => {
    const { groups } = await ask(root, 'Status', { keyspace: ORDERS });
    return groups.length > 0 && groups.every((group) => group.ready);
  });
});

test('mutual TLS: only the right certificates open', async () => {
  for (const how of [{ certificate: null }, { certificate: STRANGERS }, { authority: STRANGERS }]) {
    const error = await refused(ask(opened('Admin', { token: ROOT, ...how }), 'ListKeyspaces', {}));
    assert.equal(error.code, UNAVAILABLE, error.message);
  }
  const plain = await refused(ask(client('Kv', SECURED), 'Get', get(ORDERS, 'k')));
  assert.equal(plain.code, UNAVAILABLE, plain.message);
  const { keyspaces } = await ask(opened('Admin', { token: ROOT, certificate: CERTS }), 'ListKeyspaces', {});
  assert.ok(keyspaces.some(({ name }) => name === ORDERS));
});

test('tokens: a token opens what it has rights for, until it is revoked', async () => {
  const rights = [{ keyspace: ORDERS, right: 'read' }];
  const { text } = await ask(root, 'CreateToken', { name: 'node-reader', rights });
  const reader = opened('Kv', { token: text });
  await ask(opened('Kv', { token: ROOT }), 'Put', put(ORDERS, 'k', 'v'));
  assert.equal((await ask(reader, 'Get', get(ORDERS, 'k'))).value.value.toString(), 'v');
  const denied = await refused(ask(reader, 'Put', put(ORDERS, 'k', 'w')));
  assert.equal(denied.code, PERMISSION_DENIED, denied.message);
  assert.match(denied.details, /write/);
  await ask(root, 'RevokeToken', { token: 'node-reader' });
  const words = new Set();
  for (const token of [text, 'nonsense', undefined]) {
    const error = await refused(ask(opened('Kv', { token }), 'Get', get(ORDERS, 'k')));
    assert.equal(error.code, UNAUTHENTICATED, error.message);
    assert.equal(details(error).act, 'ACT_REJECT');
    words.add(error.details);
  }
  assert.equal(words.size, 1, 'a stranger learns nothing of why');
});
