//! The bare tonic echo: a server with one `current_thread` runtime on a thread of its own.

use anyhow::{Context, Result};
use bytes::Bytes;
use pb::echo_client::EchoClient;
use pb::echo_server::{Echo, EchoServer};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

#[allow(missing_docs, clippy::all, reason = "generated code")]
mod pb {
    tonic::include_proto!("fulcrum.bench");
}

struct Bare;

#[tonic::async_trait]
impl Echo for Bare {
    async fn echo(&self, request: Request<pb::Payload>) -> Result<Response<pb::Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

/// A running echo server, and a client of it. It stops with the last clone.
#[derive(Clone)]
pub(crate) struct BareEcho {
    client: EchoClient<Channel>,
    _stop: Arc<oneshot::Sender<()>>,
}

impl BareEcho {
    pub(crate) async fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("echo".into())
            .spawn(move || runtime.block_on(serve(listener, stopped)))
            .context("start the echo server")?;
        Ok(Self {
            client: connect(address).await?,
            _stop: Arc::new(stop),
        })
    }

    /// One call; fails if something else comes back.
    pub(crate) fn call(&self, payload: Bytes) -> impl Future<Output = Result<()>> + Send + use<> {
        let mut client = self.client.clone();
        async move {
            let expected = payload.len();
            let echoed = client.echo(pb::Payload { bytes: payload }).await?;
            anyhow::ensure!(echoed.into_inner().bytes.len() == expected, "the echo is another");
            Ok(())
        }
    }
}

async fn connect(address: SocketAddr) -> Result<EchoClient<Channel>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .connect()
        .await?;
    Ok(EchoClient::new(channel))
}

async fn serve(listener: std::net::TcpListener, stopped: oneshot::Receiver<()>) -> Result<()> {
    let incoming = TcpListenerStream::new(TcpListener::from_std(listener)?);
    let incoming = incoming.map(|accepted| {
        let socket = accepted?;
        socket.set_nodelay(true)?;
        std::io::Result::Ok(socket)
    });
    tonic::transport::Server::builder()
        .add_service(EchoServer::new(Bare))
        .serve_with_incoming_shutdown(incoming, async {
            let _ = stopped.await;
        })
        .await?;
    Ok(())
}
