// How every test connects: the one place for options of a channel.
//
// Encryption and tokens have their place here: `credentials`, and a call's metadata.
'use strict';

const { after } = require('node:test');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const ROUTERS = process.env.FULCRUM_ROUTERS.split(',');
// Batches and transactions are larger than the 4 MiB that gRPC takes in by itself.
const LARGE = { 'grpc.max_receive_message_length': 16 * 1024 * 1024, 'grpc.max_send_message_length': 16 * 1024 * 1024 };

// Names as in the protocol buffers, what is absent by its default; numbers of 64 bits as strings, for not all fit into JavaScript's own.
const files = ['kv', 'transactions', 'admin'].map((name) => `fulcrum/v1/${name}.proto`);
const loaded = loader.loadSync(files, {
  includeDirs: [process.env.FULCRUM_PROTOS],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
  oneofs: true,
});
const { v1 } = grpc.loadPackageDefinition(loaded).fulcrum;

// An open client keeps the process: what a test has not closed, because it failed, is closed at the end.
const open = [];
after(() => open.forEach((one) => one.close()));

const credentials = () => grpc.credentials.createInsecure();

/** A client of one of the services `Kv`, `Transactions` and `Admin`. */
function client(service, address = ROUTERS[0], options = {}) {
  const made = new v1[service](address, credentials(), options);
  open.push(made);
  return made;
}

/** An address for several routers: takes turns, and leaves out those that do not answer. Without a name for them all grpc-js would
 * make one with a comma in it, which servers refuse. */
const balanced = (addresses) => `ipv4:${addresses.join(',')}`;
const ROUND_ROBIN = {
  'grpc.service_config': JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] }),
  'grpc.default_authority': 'fulcrum',
};

/** A call with one answer, as a promise. A deadline is in milliseconds from now. */
function ask(of, method, request, { deadline = 20000, ...options } = {}) {
  return new Promise((resolve, reject) => {
    const at = Date.now() + deadline;
    of[method](request, new grpc.Metadata(), { deadline: at, ...options }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

module.exports = { grpc, v1, ROUTERS, LARGE, ROUND_ROBIN, ask, balanced, client, credentials };
