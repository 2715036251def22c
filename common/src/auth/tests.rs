//! The gate, from outside: who is let in, what the others are told, and when what runs is ended.

use super::text::{INTERNAL, ROOT, Secret};
use super::*;
use crate::ManualClock;
use crate::metadata::Revision;
use crate::metrics::Metrics;
use bytes::Bytes;
use fulcrum_types::{Now, Refusal, Right};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::body::Frame;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Code, Status};

mod store;

/// Answers with whatever comes, as long as it comes; tells who called.
#[derive(Clone)]
struct Echo(mpsc::Sender<Option<Caller>>);

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        assert!(request.headers().get("authorization").is_none(), "it stays at the gate");
        let caller = request.extensions().get::<Caller>().cloned();
        let _ = self.0.try_send(caller);
        Box::pin(std::future::ready(Ok(http::Response::new(request.into_body()))))
    }
}

struct World {
    clock: Arc<ManualClock>,
    metrics: Metrics,
    guard: Arc<Guard>,
    root: Secret,
    internal: Secret,
    app: Secret,
    calls: mpsc::Receiver<Option<Caller>>,
    echo: Echo,
}

const APP: TokenId = TokenId(0xa);
const EXPIRES: u64 = 2_000;

fn file(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

impl World {
    fn new(required: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secrets = [(); 3].map(|()| Secret::random().unwrap());
        let [root, internal, app] = secrets;
        let config = AuthConfig {
            required,
            root_token_file: Some(file(folder.path(), "root", &root.to_text(ROOT))),
            internal_secret_file: Some(file(folder.path(), "internal", &internal.to_text(INTERNAL))),
        };
        let clock = Arc::new(ManualClock::new(Now {
            wall_ms: 1_000,
            ..Now::default()
        }));
        let metrics = Metrics::new();
        let guard = Guard::open(&config, clock.clone(), &metrics).unwrap();
        let (tell, calls) = mpsc::channel(16);
        Self {
            clock,
            metrics,
            guard,
            root,
            internal,
            app,
            calls,
            echo: Echo(tell),
        }
    }

    /// With one token, from this revision on.
    fn learn(&self, revision: u64, grants: &[&str], expires_ms: Option<u64>) {
        let record = TokenRecord {
            name: "app".into(),
            hash: self.app.hash(),
            grants: grants.iter().map(|grant| grant.parse().unwrap()).collect(),
            created_ms: 0,
            expires_ms,
        };
        let mut table = TokenTable {
            revision: Revision(revision),
            ..TokenTable::default()
        };
        table.tokens.insert(APP, record);
        self.guard.learn(&table);
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.app.to_text(&APP.to_string()))
    }

    async fn knock(&self, authorization: Option<&str>, body: Body) -> http::Response<Body> {
        let mut request = http::Request::new(body);
        if let Some(shown) = authorization {
            request.headers_mut().insert("authorization", shown.parse().unwrap());
        }
        Gate::for_clients(&self.guard, self.echo.clone())
            .call(request)
            .await
            .unwrap()
    }

    /// What a client is told; none if it is let in.
    async fn told(&self, authorization: Option<&str>) -> Option<(Code, String)> {
        let response = self.knock(authorization, Body::empty()).await;
        let status = Status::from_header_map(response.headers())?;
        Some((status.code(), status.message().to_owned()))
    }

    fn refused(&self, reason: &str) -> u64 {
        let families = self.metrics.registry().gather();
        let all = families.iter().flat_map(|family| family.get_metric());
        let one = all.filter(|metric| metric.get_label().iter().any(|label| label.value() == reason));
        one.map(|metric| metric.get_counter().get_value() as u64).sum()
    }
}

#[tokio::test]
async fn who_is_not_let_in_is_told_the_same_whatever_the_reason() {
    let world = World::new(true);
    let app = world.bearer();
    assert!(world.told(Some(&app)).await.is_some(), "no tokens are known yet");
    assert_eq!(world.refused("no_tokens_known"), 1);
    world.learn(1, &["orders:read"], Some(EXPIRES));
    assert_eq!(world.told(Some(&app)).await, None);

    let wrong = Secret::random().unwrap();
    let digits = wrong.to_text("x").rsplit('_').next().unwrap().to_owned();
    let knocks = [
        (None, "missing"),
        (Some("Bearer".to_owned()), "malformed"),
        (Some(format!("Basic {}", &app[7..])), "malformed"),
        (Some(format!("Bearer {digits}")), "malformed"),
        (Some(format!("{app}0")), "malformed"),
        (
            Some(format!("Bearer {}", wrong.to_text(&APP.to_string()))),
            "wrong_secret",
        ),
        (Some(format!("Bearer {}", wrong.to_text(ROOT))), "wrong_secret"),
        (Some(format!("Bearer {}", wrong.to_text("000000000000000b"))), "unknown"),
        (Some(format!("Bearer {}", world.internal.to_text(INTERNAL))), "unknown"),
    ];
    let mut told = BTreeSet::new();
    for (shown, reason) in knocks {
        let before = world.refused(reason);
        let (code, message) = world.told(shown.as_deref()).await.expect(reason);
        assert_eq!(code, Code::Unauthenticated);
        told.insert(message);
        assert_eq!(world.refused(reason), before + 1, "{reason}: {shown:?}");
    }
    world.clock.advance(Duration::from_millis(EXPIRES));
    told.insert(world.told(Some(&app)).await.unwrap().1);
    assert_eq!(world.refused("expired"), 1);
    assert_eq!(told.len(), 1, "no hint: {told:?}");
}

#[tokio::test]
async fn callers_have_the_rights_of_their_tokens() {
    let mut world = World::new(true);
    world.learn(1, &["orders:read"], None);
    assert_eq!(world.told(Some(&world.bearer())).await, None);
    let app = world.calls.recv().await.unwrap().unwrap();
    assert!(app.may(Right::Read, "orders").is_ok() && app.sees("orders") && !app.sees("users"));
    let denied = Refusal::Denied {
        scope: "orders".into(),
        right: Right::Write,
    };
    assert_eq!(world.refused("denied"), 0, "what it does not see it was not refused");
    assert_eq!(app.may(Right::Write, "orders"), Err(denied));
    assert_eq!(world.refused("denied"), 1);
    assert!(app.may_use(Verb::DropKeyspace, Some("orders")).is_err());
    assert_eq!(app.token(), (Some("000000000000000a".into()), "app"));

    let root = format!("Bearer {}", world.root.to_text(ROOT));
    assert_eq!(world.told(Some(&root)).await, None);
    let root = world.calls.recv().await.unwrap().unwrap();
    assert!(
        Verb::ALL
            .into_iter()
            .all(|verb| root.may_use(verb, Some("orders")).is_ok())
    );
}

#[test]
fn admin_of_one_keyspace_is_no_admin_of_what_belongs_to_none() {
    let world = World::new(true);
    world.learn(1, &["orders:admin"], None);
    let app = world.bearer();
    let shown = guard::Shown {
        authorization: Some(app.as_bytes()),
        peer: None,
        path: "/",
    };
    let caller = world.guard.client(&shown).unwrap();
    for verb in Verb::ALL {
        assert_eq!(
            caller.may_use(verb, Some("orders")).is_ok(),
            verb.is_of_one_keyspace(),
            "{verb:?}"
        );
        assert!(caller.may_use(verb, Some("users")).is_err(), "{verb:?}");
        assert!(caller.may_use(verb, None).is_err(), "{verb:?}");
    }
}

#[tokio::test]
async fn where_none_is_required_tokens_are_not_looked_at() {
    let mut world = World::new(false);
    for shown in [None, Some("Bearer nonsense")] {
        assert_eq!(world.told(shown).await, None);
        let caller = world.calls.recv().await.unwrap().unwrap();
        assert!(caller.may(Right::Admin, Scope::ALL).is_ok());
    }
}

#[tokio::test]
async fn internal_gates_open_to_the_secret_of_the_cluster_alone() {
    let world = World::new(true);
    world.learn(1, &["*:admin"], None);
    let knock = async |authorization: Option<String>| {
        let mut request = http::Request::new(Body::empty());
        if let Some(shown) = authorization {
            request.headers_mut().insert("authorization", shown.parse().unwrap());
        }
        let mut gate = Gate::for_services(&world.guard, world.echo.clone());
        Status::from_header_map(gate.call(request).await.unwrap().headers()).map(|status| status.code())
    };
    let bearer = |secret: &Secret, id: &str| Some(format!("Bearer {}", secret.to_text(id)));
    let refused = Some(Code::Unauthenticated);
    assert_eq!(knock(None).await, refused);
    assert_eq!(knock(Some(world.bearer())).await, refused);
    assert_eq!(knock(bearer(&world.root, ROOT)).await, refused);
    assert_eq!(knock(bearer(&world.internal, ROOT)).await, refused);
    assert_eq!(knock(bearer(&world.internal, INTERNAL)).await, None);

    // As a service shows it.
    let request = tonic::service::Interceptor::call(&mut world.guard.to_show(), tonic::Request::new(())).unwrap();
    let shown = request.metadata().get("authorization").unwrap().to_str().unwrap();
    assert_eq!(knock(Some(shown.to_owned())).await, None);
    assert!(!format!("{:?} {request:?}", world.guard).contains(&shown[shown.len() - 64..]));
}

/// A stream in both directions: what is sent to it comes back.
async fn stream(world: &World) -> (mpsc::Sender<Result<Frame<Bytes>, Status>>, Body) {
    let (send, frames) = mpsc::channel(4);
    let body = Body::new(http_body_util::StreamBody::new(ReceiverStream::new(frames)));
    let mut response = world.knock(Some(&world.bearer()), body).await.into_body();
    send.send(Ok(Frame::data(Bytes::from_static(b"a")))).await.unwrap();
    let first = response.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "a");
    (send, response)
}

async fn end(mut response: Body) -> Code {
    let waited = tokio::time::timeout(Duration::from_secs(5), response.frame());
    match waited.await.expect("the stream goes on") {
        Some(Ok(frame)) => Status::from_header_map(frame.trailers_ref().expect("an end"))
            .unwrap()
            .code(),
        // The request's side ended first, and was answered with that.
        Some(Err(status)) => status.code(),
        None => panic!("it ended in good order"),
    }
}

#[tokio::test]
async fn what_runs_under_a_token_ends_with_it() {
    let world = World::new(true);
    world.learn(1, &["orders:read"], None);
    let (send, response) = stream(&world).await;
    world.learn(2, &["orders:read"], None);
    send.send(Ok(Frame::data(Bytes::from_static(b"b")))).await.unwrap();
    let mut response = response;
    assert!(
        response.frame().await.unwrap().is_ok(),
        "other changes do not concern it"
    );

    world.guard.learn(&TokenTable {
        revision: Revision(3),
        ..TokenTable::default()
    });
    assert_eq!(end(response).await, Code::Unauthenticated);
    assert!(send.is_closed(), "nor is what it still sends read");
    assert!(world.told(Some(&world.bearer())).await.is_some());
    world.learn(2, &["orders:read"], None);
    assert!(
        world.told(Some(&world.bearer())).await.is_some(),
        "an older table takes nothing back"
    );
}

#[tokio::test]
async fn other_rights_end_it_too_but_not_as_a_stranger() {
    let world = World::new(true);
    world.learn(1, &["orders:read"], None);
    let (_send, response) = stream(&world).await;
    world.learn(2, &["orders:write"], None);
    assert_eq!(end(response).await, Code::Unknown);
    assert_eq!(
        world.told(Some(&world.bearer())).await,
        None,
        "whoever has it asks again"
    );
}

#[tokio::test]
async fn an_expiry_ends_it_within_a_second_or_so() {
    let world = World::new(true);
    world.learn(1, &["orders:read"], Some(EXPIRES));
    let looking = tokio::spawn(world.guard.clone().end_expired());
    let (_send, response) = stream(&world).await;
    world.clock.advance(Duration::from_millis(EXPIRES));
    assert_eq!(end(response).await, Code::Unauthenticated);
    looking.abort();
}

#[tokio::test]
async fn a_wall_clock_that_jumps_ahead_and_back_does_not_end_a_token_for_good() {
    let world = World::new(true);
    world.learn(1, &["orders:read"], Some(EXPIRES));
    let looking = tokio::spawn(world.guard.clone().end_expired());
    let (_send, response) = stream(&world).await;
    world.clock.set_wall(EXPIRES);
    assert_eq!(end(response).await, Code::Unauthenticated);
    assert!(world.told(Some(&world.bearer())).await.is_some());
    world.clock.set_wall(1_000);
    let (_send, _response) = stream(&world).await;
    looking.abort();
}

/// The page for operators has every verb, with what it needs.
#[test]
fn every_verb_is_in_the_documentation() {
    let page = include_str!("../../../docs/security-tokens.md");
    for verb in Verb::ALL {
        let needs = match verb.is_of_one_keyspace() {
            true => "`admin` in the keyspace",
            false => "`admin` in `*`",
        };
        let mut rows = page.lines().filter(|line| line.starts_with("| "));
        let row = rows.find(|line| line.contains(&format!("`{}`", verb.name())));
        let row = row.unwrap_or_else(|| panic!("{} is not in docs/security-tokens.md", verb.name()));
        assert!(row.contains(needs), "{}: {row}", verb.name());
    }
}
