// Messages as the tests write them, waiting, and the details of an error.
'use strict';

const protobuf = require('protobufjs');
const { ask, client } = require('./connect.js');

const LEVELS = {
  linearizable: { linearizable: {} },
  session: { session: {} },
  eventual: { eventual: {} },
  bounded: { bounded_ms: 500 },
};

const bytes = (text) => Buffer.from(text);
const get = (keyspace, key, consistency = LEVELS.linearizable, options = {}) => ({
  keyspace,
  key: bytes(key),
  options: { consistency, ...options },
});
const put = (keyspace, key, value, rest = {}) => ({ keyspace, key: bytes(key), value: bytes(value), ...rest });
const write = (key, value) => ({ key: bytes(key), put: { value: bytes(value) } });

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** What `holds` answers once that is true of anything. */
async function until(holds, within = 20000) {
  const ends = Date.now() + within;
  for (;;) {
    const seen = await holds();
    if (seen) return seen;
    if (Date.now() > ends) throw new Error(`not within ${within} ms`);
    await pause(20);
  }
}

/** A new keyspace that serves: every group has a primary. Each file of tests has its own. */
async function keyspace(name, spec) {
  const admin = client('Admin');
  await ask(admin, 'CreateKeyspace', { name, spec });
  await until(async () => {
    const { groups } = await ask(admin, 'Status', { keyspace: name });
    return groups.length > 0 && groups.every((group) => group.ready);
  });
  admin.close();
  return name;
}

// The standard envelope, in which details come in `grpc-status-details-bin`.
const ENVELOPE = protobuf
  .parse(
    `syntax = "proto3"; package google.rpc;
     message Any { string type_url = 1; bytes value = 2; }
     message Status { int32 code = 1; string message = 2; repeated Any details = 3; }`,
    { keepCase: true },
  )
  .root.lookupType('google.rpc.Status');
const ERROR = new protobuf.Root();
ERROR.resolvePath = (_, target) => `${process.env.FULCRUM_PROTOS}/${target}`;
const ERROR_TYPE = ERROR.loadSync('fulcrum/v1/types.proto', { keepCase: true }).lookupType('fulcrum.v1.Error');

/** Our details of an error, and that the envelope says what the status says. */
function details(error) {
  const [encoded] = error.metadata.get('grpc-status-details-bin');
  const envelope = ENVELOPE.decode(encoded);
  if (envelope.code !== error.code || envelope.message !== error.details) {
    throw new Error(`the envelope (${envelope.code}, ${envelope.message}) contradicts the status: ${error.message}`);
  }
  const ours = envelope.details.find((any) => any.type_url === 'type.googleapis.com/fulcrum.v1.Error');
  return ERROR_TYPE.toObject(ERROR_TYPE.decode(ours.value), { enums: String, longs: String });
}

/** The error of a promise that must fail. */
async function refused(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('it was not refused');
}

/** A token that has also seen what this receipt is of. */
function merged(token, receipt) {
  const seen = token.groups[receipt.group] ?? { epoch: '0', index: '0' };
  const newer = BigInt(receipt.epoch) - BigInt(seen.epoch) || BigInt(receipt.index) - BigInt(seen.index);
  if (newer > 0n) token.groups[receipt.group] = { epoch: receipt.epoch, index: receipt.index };
  if (BigInt(receipt.map_version) > BigInt(token.map_version)) token.map_version = receipt.map_version;
  return token;
}

/** A token as it can be sent back. protobufjs decodes numbers of 64 bits that are keys of a map into eight characters, which it does not
 * encode again: here they become numbers in words. */
function sendable(token) {
  const groups = Object.entries(token.groups).map(([key, seen]) => [protobuf.util.longFromHash(key, true).toString(), seen]);
  return { ...token, groups: Object.fromEntries(groups) };
}

module.exports = { LEVELS, bytes, details, get, keyspace, merged, pause, put, refused, sendable, until, write };
