// How every test connects: the one place for options of a channel, encryption and tokens.
'use strict';

const fs = require('node:fs');
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

// The cluster where nobody does anything without a certificate and a token.
const SECURED = process.env.FULCRUM_SECURED_ROUTER;
const CERTS = process.env.FULCRUM_CERTS;
const STRANGERS = process.env.FULCRUM_STRANGERS;
const ROOT = process.env.FULCRUM_ROOT_TOKEN;

/** Encryption by the authority in a folder of `fulcrum cert dev`, a certificate from another (or none), and a token, if there is one. */
function secured({ authority = CERTS, certificate = CERTS, token } = {}) {
  const read = (folder, name) => (folder ? fs.readFileSync(`${folder}/${name}`) : null);
  const encrypted = grpc.credentials.createSsl(read(authority, 'ca.pem'), read(certificate, 'client.key'), read(certificate, 'client.pem'));
  if (!token) return encrypted;
  const shown = grpc.credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new grpc.Metadata();
    metadata.set('authorization', `Bearer ${token}`);
    done(null, metadata);
  });
  return grpc.credentials.combineChannelCredentials(encrypted, shown);
}

/** A client of one of the services `Kv`, `Transactions` and `Admin`. */
function client(service, address = ROUTERS[0], options = {}, credentials = grpc.credentials.createInsecure()) {
  const made = new v1[service](address, credentials, options);
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

module.exports = { grpc, v1, CERTS, LARGE, ROOT, ROUND_ROBIN, ROUTERS, SECURED, STRANGERS, ask, balanced, client, secured };
