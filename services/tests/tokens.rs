//! Tokens with real processes over a real etcd: the operator's way, an etcd that is down, and what is in stores and logs.

mod support;

use fulcrum_client::{Client, Config, Refusal, Token};
use fulcrum_common::Metadata;
use fulcrum_common::auth::text::{INTERNAL, ROOT, Secret};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::{PATIENCE, World, until};

/// Settings are environment variables, which live as long as the test does.
fn kept(path: &Path) -> &'static str {
    Box::leak(path.display().to_string().into_boxed_str())
}

struct Tokens {
    world: World,
    root: String,
    internal: String,
}

impl Tokens {
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.world.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The command line with the token of a file, or without one.
    fn fulcrum(&self, token: Option<&Path>, arguments: &[&str]) -> Output {
        let mut command: Command = self.world.command(arguments);
        command.env_remove("FULCRUM_TOKEN").env_remove("FULCRUM_TOKEN_FILE");
        if let Some(path) = token {
            command.env("FULCRUM_TOKEN_FILE", path);
        }
        command.output().unwrap()
    }

    fn ok(&self, token: &Path, arguments: &[&str]) -> Value {
        let output = self.fulcrum(Some(token), arguments);
        let logs = self.world.logs();
        assert!(output.status.success(), "{arguments:?}: {output:?}\n{logs}");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The code of a command that is refused.
    fn refused(&self, token: Option<&Path>, arguments: &[&str]) -> String {
        let output = self.fulcrum(token, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        error["error"]["code"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_cluster_that_asks_for_tokens() {
    let Some(world) = World::new().await else { return };
    let mut tokens = started(world).await;
    let root = tokens.file("root", &tokens.root);
    let app = an_operator_makes_them(&tokens, &root).await;
    strangers_are_refused_and_named_in_the_log_only(&tokens, &app).await;
    a_coordinator_on_its_own_asks_too(&tokens, &app).await;
    a_node_without_the_secret_is_no_part_of_it(&tokens).await;
    with_etcd_down_they_go_on(&mut tokens, &app).await;
    a_revocation_is_heard_by_all(&tokens, &root, &app).await;
    secrets_are_nowhere(&tokens, &app).await;
}

async fn started(mut world: World) -> Tokens {
    let [root, internal] = [ROOT, INTERNAL].map(|id| Secret::random().unwrap().to_text(id));
    let hash = fulcrum_common::auth::text::parse(&root).unwrap().1.hash().to_hex();
    let (root_file, internal_file) = (world.folder().join("root-hash"), world.folder().join("internal"));
    std::fs::write(&root_file, format!("sha256:{hash}\n")).unwrap();
    std::fs::write(&internal_file, &internal).unwrap();
    let auth = [
        ("FULCRUM__AUTH__REQUIRED", "true"),
        ("FULCRUM__AUTH__INTERNAL_SECRET_FILE", kept(&internal_file)),
        ("FULCRUM__AUTH__ROOT_TOKEN_FILE", kept(&root_file)),
    ];
    world.settings = auth.to_vec();
    world.gate_settings = auth.to_vec();
    world
        .gate_settings
        .push(("FULCRUM__AUDIT__FILE", kept(&world.folder().join("audit"))));
    world.add_router();
    for _ in 0..3 {
        world.add_node();
    }
    world.wait_for_router();
    Tokens { world, root, internal }
}

async fn an_operator_makes_them(tokens: &Tokens, root: &Path) -> PathBuf {
    until("three nodes are known", || {
        let nodes = tokens.ok(root, &["status"])["nodes"].as_array().map(Vec::len);
        nodes == Some(3)
    })
    .await;
    tokens.ok(root, &["keyspace", "create", "orders", "--groups", "1"]);
    tokens.ok(root, &["--deadline", "20s", "put", "orders", "k", "1"]);
    let make = [
        "token",
        "create",
        "app",
        "--right",
        "orders:read",
        "--right",
        "orders:write",
        "--expires",
        "90d",
    ];
    let made = tokens.ok(root, &make);
    assert_eq!(made["rights"], serde_json::json!(["orders:read", "orders:write"]));
    let app = tokens.file("app", made["text"].as_str().unwrap());
    tokens.ok(&app, &["--deadline", "20s", "put", "orders", "k", "2"]);
    tokens.ok(&app, &["txn", "run", "-e", "if orders k = 2", "-e", "put orders l 1"]);
    assert_eq!(tokens.refused(Some(&app), &["token", "list"]), "PERMISSION_DENIED");
    assert_eq!(tokens.refused(Some(&app), &["get", "users", "k"]), "PERMISSION_DENIED");
    let listed = tokens.ok(root, &["token", "list"]);
    assert_eq!((&listed[0]["name"], &listed[0]["text"]), (&"app".into(), &Value::Null));
    until("all nodes are ready: they hear each other", || tokens.world.all_ready()).await;
    app
}

async fn strangers_are_refused_and_named_in_the_log_only(tokens: &Tokens, app: &Path) {
    assert_eq!(tokens.refused(None, &["get", "orders", "k"]), "UNAUTHENTICATED");
    let id = std::fs::read_to_string(app)
        .unwrap()
        .split('_')
        .nth(1)
        .unwrap()
        .to_owned();
    let wrong = tokens.file("wrong", &Secret::random().unwrap().to_text(&id));
    assert_eq!(
        tokens.refused(Some(&wrong), &["put", "orders", "k", "3"]),
        "UNAUTHENTICATED"
    );
    let log = tokens.world.router.as_ref().unwrap().log();
    for reason in ["no authorization header", "the secret is not that token's"] {
        assert!(log.contains(reason), "{reason}: {log}");
    }
    assert!(log.contains(&id), "which token is no secret");
    assert!(log.contains("'users:read'"), "nor who lacked which right: {log}");
    let audit = std::fs::read_to_string(tokens.world.folder().join("audit")).unwrap();
    let lines: Vec<Value> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let has = |name: &str, verb: &str, phase: &str| {
        let mine = |line: &&Value| line["name"] == name && line["verb"] == verb && line["phase"] == phase;
        assert!(lines.iter().any(|line| mine(&line)), "{name} {verb} {phase}: {audit}");
    };
    has("root", "keyspace.create", "begin");
    has("root", "token.create", "end");
    has("app", "token.list", "refused");
    assert!(
        log.contains("fulcrum::audit") && log.contains("token.create"),
        "and in the log"
    );
}

async fn a_coordinator_on_its_own_asks_too(tokens: &Tokens, app: &Path) {
    let coordinator = tokens.world.coordinator();
    let address = format!("http://{}", coordinator.address());
    let list = || fulcrum_common::wire::v1::ListInDoubtRequest::default();
    let mut rpc = fulcrum_common::wire::v1::transactions_client::TransactionsClient::connect(address)
        .await
        .unwrap();
    let refused = rpc.list_in_doubt(list()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let mut request = tonic::Request::new(list());
    let shown = format!("Bearer {}", std::fs::read_to_string(app).unwrap());
    request.metadata_mut().insert("authorization", shown.parse().unwrap());
    let listed = rpc.list_in_doubt(request).await.unwrap().into_inner();
    assert!(listed.silent_groups.is_empty(), "nodes let it in");
    coordinator.ask_to_stop();
}

async fn a_node_without_the_secret_is_no_part_of_it(tokens: &Tokens) {
    let mut other = tokens.world.other_router();
    let address = other.address();
    let client = Client::connect(Config::new(address)).await.unwrap();
    let asked = client.keyspace("orders").get("k").await;
    assert!(
        asked.is_err(),
        "nodes do not answer a router that is none of theirs: {asked:?}"
    );
    until("a node says who it was", || {
        let mut nodes = tokens.world.nodes.iter();
        nodes.any(|node| {
            node.log().contains("compare auth.internal_secret_file") || node.log().contains("no authorization header")
        })
    })
    .await;
    other.kill();
}

async fn with_etcd_down_they_go_on(tokens: &mut Tokens, app: &Path) {
    tokens.world.etcd.stop();
    tokens.ok(app, &["put", "orders", "k", "4"]);
    assert_eq!(tokens.ok(app, &["get", "orders", "k"])["value"], "4");
    assert_eq!(tokens.refused(None, &["get", "orders", "k"]), "UNAUTHENTICATED");
    tokens.world.etcd.start_again().await;
}

async fn a_revocation_is_heard_by_all(tokens: &Tokens, root: &Path, app: &Path) {
    let token = Token::from_file(app).unwrap();
    let client = Client::connect_smart(Config::new(&tokens.world.router_address).token(token))
        .await
        .unwrap();
    let orders = client.keyspace("orders").within(PATIENCE);
    assert!(orders.get("k").await.is_ok());
    until("etcd takes changes again", || {
        tokens.fulcrum(Some(root), &["token", "revoke", "app"]).status.success()
    })
    .await;
    assert_eq!(tokens.refused(Some(app), &["get", "orders", "k"]), "UNAUTHENTICATED");
    let begun = support::now();
    // At the node, too, which hears of it by its watch.
    loop {
        match orders.get("k").await {
            Err(error) => break assert_eq!(error.refusal(), Some(&Refusal::Unauthenticated)),
            Ok(_) => assert!(support::now().since(begun) < PATIENCE, "the node has not heard of it"),
        }
    }
}

async fn secrets_are_nowhere(tokens: &Tokens, app: &Path) {
    let app = std::fs::read_to_string(app).unwrap();
    let secrets = [&app, &tokens.root, &tokens.internal].map(|text| text.rsplit('_').next().unwrap().to_owned());
    let logs = tokens.world.logs();
    let audit = std::fs::read_to_string(tokens.world.folder().join("audit")).unwrap();
    let stored = tokens.world.etcd.metadata().list("/fulcrum/").await.unwrap();
    assert!(!stored.entries.is_empty());
    for secret in &secrets {
        assert!(!logs.contains(secret) && !audit.contains(secret));
        for entry in &stored.entries {
            assert!(!String::from_utf8_lossy(&entry.value).contains(secret), "{}", entry.key);
        }
    }
}
