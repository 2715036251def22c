//! A collector of traces on loopback: takes what is exported by OTLP, as any other does, and keeps it.

use fulcrum_common::sockets::ReservedPort;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Names a Python that has what `relay.py` needs, to send everything through that: `cargo xtask traces check` does.
const BETWEEN: &str = "FULCRUM_TEST_COLLECTOR";
/// A clock that is read twice in two processes does not say exactly the same.
const SLACK_NS: u64 = 1_000_000;

/// A span, and who exported it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub service: String,
    pub instance: String,
    pub span: Span,
}

fn attribute(attributes: &[KeyValue], name: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    }
}

impl Seen {
    pub fn attribute(&self, name: &str) -> Option<String> {
        attribute(&self.span.attributes, name)
    }

    /// Who and what: `fulcrum-router forward`.
    pub fn named(&self) -> String {
        format!("{} {}", self.service, self.span.name)
    }

    pub fn is_child_of(&self, parent: &Seen) -> bool {
        self.span.parent_span_id == parent.span.span_id
    }

    /// Whether it began and ended while the other was open.
    pub fn is_within(&self, other: &Seen) -> bool {
        self.span.start_time_unix_nano + SLACK_NS >= other.span.start_time_unix_nano
            && self.span.end_time_unix_nano <= other.span.end_time_unix_nano + SLACK_NS
            && self.span.start_time_unix_nano <= self.span.end_time_unix_nano
    }
}

/// Collectors that others wrote, and that pass on what they are sent: what they understand and repeat is what was meant.
pub struct Between {
    process: Child,
    address: String,
}

impl Between {
    fn start(python: &OsStr, to: &str) -> Self {
        let ports = [ReservedPort::any().unwrap(), ReservedPort::any().unwrap()];
        let [grpc, http] = ports.map(|port| port.address().unwrap().to_string());
        let process = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/otel/relay.py"))
            .args([&grpc, &http, to.trim_start_matches("http://")])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{BETWEEN} names {}: {error}", python.display()));
        Self {
            process,
            address: format!("http://{grpc}"),
        }
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        // It ends with its standard input, and ends what it has started.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// All that was exported so far.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Vec<Seen>>>);

impl Collector {
    /// Starts one, and perhaps another one before it; where spans are to be sent.
    pub async fn start() -> (Self, String, Option<Between>) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        match std::env::var_os(BETWEEN) {
            Some(python) => {
                let between = Between::start(&python, &address);
                let address = between.address.clone();
                (collector, address, Some(between))
            }
            None => (collector, address, None),
        }
    }

    /// The spans of a trace.
    pub fn trace(&self, id: u128) -> Vec<Seen> {
        let all = self.0.lock().unwrap();
        let of_trace = |seen: &&Seen| seen.span.trace_id == id.to_be_bytes();
        all.iter().filter(of_trace).cloned().collect()
    }

    /// The traces that anything was seen of.
    pub fn traces(&self) -> BTreeSet<Vec<u8>> {
        let all = self.0.lock().unwrap();
        all.iter().map(|seen| seen.span.trace_id.clone()).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut all = self.0.lock().unwrap();
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let of = |name| attribute(&attributes, name).unwrap_or_default();
            let (service, instance) = (of("service.name"), of("service.instance.id"));
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            all.extend(spans.map(|span| Seen {
                service: service.clone(),
                instance: instance.clone(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
