//! Follows the keys of the quickstart example; stopped and started again, it goes on where it was. Run after that example.

use fulcrum_client::{ChangeKind, Client, Config, WatchEvent};
use futures::TryStreamExt;

/// Where this program keeps how far it came.
const TOKEN_FILE: &str = "watch.token";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let router = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "http://127.0.0.1:7400".into());
    let client = Client::connect(Config::new(router)).await?;
    let watch = client.keyspace("quickstart").watch();
    // The first time everything that is there, then only what is new.
    let watch = match std::fs::read_to_string(TOKEN_FILE) {
        Ok(token) => watch.from(token.parse()?),
        Err(_) => watch.with_current(),
    };
    let mut events = watch.events();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Current { row, .. } => println!("{:?} is {:?}", row.key, row.value.value),
            WatchEvent::Change { change, .. } => match change.kind {
                ChangeKind::Put(value) => println!("{:?} became {:?}", change.key, value.value),
                ChangeKind::Delete { .. } => println!("{:?} was deleted", change.key),
                ChangeKind::Expire { .. } => println!("{:?} ran out of time", change.key),
            },
            // All before this was worked through: whoever starts again begins here.
            WatchEvent::Progress(_) => {
                if let Some(token) = events.token() {
                    std::fs::write(TOKEN_FILE, token.to_string())?;
                }
            }
        }
    }
    Ok(())
}
