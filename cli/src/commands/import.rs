//! `fulcrum import`: records from a file into a keyspace.
//!
//! Without `--keep-going` the first malformed or refused record stops it; what was sent before may be there. With it, all
//! others are written, and the bad ones are named with their line and the reason. Importing again does no harm.

use crate::args::ImportArgs;
use crate::context::{Context, Ending, note};
use crate::exit::{Exit, Failure};
use crate::loader::{Attempt, LoadOptions, Numbered, load};
use crate::progress::Progress;
use crate::records::{Format, LineError, ReadError, RecordReader};
use crate::render::{count, rate, span};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc;

/// Bad records that are named one by one; the others are counted.
const NAMED: usize = 20;
const READ_AHEAD: usize = 4096;

/// What the reading thread found.
#[derive(Default)]
struct ReadResult {
    malformed: Vec<LineError>,
    malformed_total: u64,
    failed: Option<ReadError>,
}

/// Imports a file.
pub async fn run(context: &Context, args: &ImportArgs) -> Ending {
    let Input { bytes, name, size } = open(&args.file)?;
    let format = args.format.or_else(|| Format::of_name(&args.file));
    let (keyspace, session) = context.keyspace(&args.keyspace).await?;
    let (sender, source) = mpsc::channel(READ_AHEAD);
    let keep_going = args.keep_going;
    let progress = Arc::new(Progress::of_file(&format!("import {name}"), size));
    let shown = Arc::clone(&progress);
    let reading = tokio::task::spawn_blocking(move || {
        read(bytes, format, &sender, keep_going, |so_far| shown.read_so_far(so_far))
    });
    let options = LoadOptions {
        batch: usize::try_from(args.batch).unwrap_or(1),
        parallel: usize::try_from(args.parallel).unwrap_or(1),
    };
    let shown = Arc::clone(&progress);
    let observe = move |attempt: &Attempt<'_>| {
        if let Ok(written) = attempt.answer {
            shown.add(written.items.iter().filter(|item| item.is_ok()).count() as u64);
        }
    };
    let loaded = load(&keyspace, source, options, observe, |_| !keep_going).await;
    let found = reading
        .await
        .map_err(|error| Failure::file("cannot read the input", error))?;
    let took = Arc::into_inner(progress).map(Progress::finish).unwrap_or_default();
    session.save()?;

    let mut named: Vec<(u64, String)> = found.malformed.into_iter().map(|bad| (bad.line, bad.reason)).collect();
    named.extend(loaded.refused.iter().map(|bad| (bad.line, bad.error.to_string())));
    named.sort();
    let bad_total = found.malformed_total + loaded.refused.len() as u64;
    named.truncate(NAMED);
    if context.json() {
        let bad = named
            .iter()
            .map(|(line, reason)| json!({"line": line, "reason": reason}));
        context.print_json(&json!({
            "imported": loaded.written,
            "malformed": found.malformed_total,
            "refused": loaded.refused.len(),
            "bad": bad.collect::<Vec<Value>>(),
            "seconds": took.as_secs_f64(),
            "input_error": found.failed.as_ref().map(ToString::to_string),
        }))?;
    } else {
        for (line, reason) in &named {
            note(&format!("{name}: line {line}: {reason}"));
        }
        if bad_total > named.len() as u64 {
            note(&format!("{name}: and {} more", count(bad_total - named.len() as u64)));
        }
        let speed = rate(loaded.written, took);
        note(&format!(
            "imported {} records in {} ({speed}/s), {} bad",
            count(loaded.written),
            span(took),
            count(bad_total)
        ));
    }
    ending(
        &name,
        keep_going,
        found.failed,
        loaded.refused.first().map(|bad| &bad.error),
        bad_total,
    )
}

fn ending(
    name: &str,
    keep_going: bool,
    failed: Option<ReadError>,
    refused: Option<&fulcrum_client::Error>,
    bad: u64,
) -> Ending {
    let what = format!("the import of {name} is not complete");
    if let Some(error) = failed {
        return Err(Failure::file(what, error));
    }
    if keep_going {
        return Ok(if bad == 0 { Exit::Ok } else { Exit::Partial });
    }
    if let Some(error) = refused {
        return Err(Failure::client(what, error));
    }
    match bad {
        0 => Ok(Exit::Ok),
        _ => Err(Failure::new(Exit::Failed, "MALFORMED", what, "a line is malformed")
            .remedy("correct the line, or pass over such lines with --keep-going; importing again does no harm")),
    }
}

/// What is imported.
struct Input {
    bytes: Box<dyn Read + Send>,
    name: String,
    /// How long it is, if it is a file.
    size: Option<u64>,
}

fn open(path: &Path) -> Result<Input, Failure> {
    if path == Path::new("-") {
        return Ok(Input {
            bytes: Box::new(std::io::stdin()),
            name: "standard input".to_owned(),
            size: None,
        });
    }
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| Failure::file(format!("cannot open {name}"), error))?;
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file);
    Ok(Input {
        bytes: Box::new(file),
        name,
        size: metadata.map(|metadata| metadata.len()),
    })
}

/// Reads until the end, until the first bad line if that is the end, or until nobody takes records any more.
fn read(
    input: Box<dyn Read + Send>,
    format: Option<Format>,
    sender: &mpsc::Sender<Numbered>,
    keep_going: bool,
    so_far: impl Fn(u64),
) -> ReadResult {
    let mut found = ReadResult::default();
    let reader = match RecordReader::open(input, format) {
        Ok(reader) => reader,
        Err(error) => {
            found.failed = Some(error);
            return found;
        }
    };
    let consumed = reader.consumed();
    for (line, item) in (1..).zip(reader) {
        so_far(consumed.load(Ordering::Relaxed));
        match item {
            Ok(Ok(record)) => {
                if sender.blocking_send(Numbered::for_ever(line, record)).is_err() {
                    break;
                }
            }
            Ok(Err(bad)) => {
                found.malformed_total += 1;
                if found.malformed.len() < NAMED {
                    found.malformed.push(bad);
                }
                if !keep_going {
                    break;
                }
            }
            Err(error) => {
                found.failed = Some(error);
                break;
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &'static str, keep_going: bool) -> (Vec<u64>, ReadResult) {
        let (sender, mut source) = mpsc::channel(100);
        let found = read(Box::new(text.as_bytes()), None, &sender, keep_going, |_| {});
        drop(sender);
        let mut lines = Vec::new();
        while let Some(numbered) = source.blocking_recv() {
            lines.push(numbered.line);
        }
        (lines, found)
    }

    #[test]
    fn bad_lines_are_passed_over_only_if_asked() {
        let text = "a\t1\nbroken\nb\t2\n\nc\t3\n";
        let (lines, found) = read_all(text, true);
        assert_eq!(lines, [1, 3, 5]);
        assert_eq!(found.malformed_total, 2);
        let (lines, found) = read_all(text, false);
        assert_eq!(lines, [1]);
        assert_eq!(found.malformed[0].line, 2);
    }

    #[test]
    fn how_it_ends() {
        assert_eq!(ending("f", true, None, None, 0), Ok(Exit::Ok));
        assert_eq!(ending("f", true, None, None, 3), Ok(Exit::Partial));
        assert_eq!(ending("f", false, None, None, 1).unwrap_err().code, "MALFORMED");
        let gone = fulcrum_client::Error::Unreachable {
            reason: "refused".into(),
        };
        assert_eq!(
            ending("f", false, None, Some(&gone), 1).unwrap_err().exit,
            Exit::Unreachable
        );
    }
}
