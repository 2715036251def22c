//! `fulcrum export`: all records of a keyspace, in key order, to a file that `fulcrum import` reads.
//!
//! A file appears under its name only when it is complete.

use crate::args::ExportArgs;
use crate::context::{Context, Ending, note};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::records::{Format, Record, RecordWriter};
use crate::render::{count, span};
use fulcrum_client::{Range, Row, Scan};
use futures::TryStreamExt;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Exports a keyspace.
pub async fn run(context: &Context, args: &ExportArgs) -> Ending {
    let (keyspace, session) = context.keyspace(&args.keyspace).await?;
    let range = args.prefix.as_ref().map_or_else(Range::all, Range::prefix);
    let scan = keyspace.scan(range);
    let scan = args.read.accept.iter().fold(scan, |scan, level| scan.or_at(*level));
    let scan = match args.read.level {
        Some(level) => scan.at(level),
        None => scan,
    };
    let format = args
        .format
        .or_else(|| Format::of_name(&args.file))
        .unwrap_or(Format::Tsv);
    let mut target = Target::open(&args.file, format)?;
    let progress = Progress::start(&format!("export '{}'", args.keyspace), None);
    let written = copy(scan, &mut target, &args.keyspace, &progress).await;
    let took = progress.finish();
    let records = match written {
        Ok(records) => records,
        Err(failure) => {
            target.abandon();
            return Err(failure);
        }
    };
    target.finish()?;
    session.save()?;
    let to_file = args.file != Path::new("-");
    if context.json() && to_file {
        context.print_json(&json!({"exported": records, "seconds": took.as_secs_f64()}))?;
    } else {
        note(&format!("exported {} records in {}", count(records), span(took)));
    }
    Ok(Exit::Ok)
}

async fn copy(scan: Scan, target: &mut Target, keyspace: &str, progress: &Progress) -> Result<u64, Failure> {
    let mut records = 0;
    let mut pages = std::pin::pin!(scan.pages());
    let refused = |error| Failure::client(format!("cannot export '{keyspace}'"), &error);
    while let Some(page) = pages.try_next().await.map_err(refused)? {
        let rows = page.rows.len() as u64;
        for row in page.rows {
            target.write(row)?;
        }
        records += rows;
        progress.add(rows);
    }
    Ok(records)
}

struct Target {
    writer: RecordWriter,
    /// Where it is written, and what it is called once complete; none for standard output.
    file: Option<(PathBuf, PathBuf)>,
}

impl Target {
    fn open(path: &Path, format: Format) -> Result<Self, Failure> {
        if path == Path::new("-") {
            let writer = RecordWriter::new(Box::new(std::io::stdout()), format, false);
            return Ok(Target { writer, file: None });
        }
        let gzip = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        let mut partial = path.to_owned().into_os_string();
        partial.push(".part");
        let partial = PathBuf::from(partial);
        let file = File::create(&partial)
            .map_err(|error| Failure::file(format!("cannot create {}", partial.display()), error))?;
        let output: Box<dyn Write + Send> = Box::new(file);
        Ok(Target {
            writer: RecordWriter::new(output, format, gzip),
            file: Some((partial, path.to_owned())),
        })
    }

    fn name(&self) -> String {
        self.file.as_ref().map_or("standard output".to_owned(), |(partial, _)| {
            partial.display().to_string()
        })
    }

    fn write(&mut self, row: Row) -> Result<(), Failure> {
        let record = Record {
            key: row.key,
            value: row.value.value,
        };
        self.writer
            .write(&record)
            .map_err(|error| Failure::file(format!("cannot write {}", self.name()), error))
    }

    fn finish(self) -> Result<(), Failure> {
        let name = self.name();
        let finished = self.writer.finish().and_then(|()| match &self.file {
            Some((partial, path)) => std::fs::rename(partial, path),
            None => Ok(()),
        });
        finished.map_err(|error| Failure::file(format!("cannot complete {name}"), error))
    }

    fn abandon(self) {
        if let Some((partial, _)) = self.file {
            // What cannot be removed is named .part and shows that it is none.
            let _ = std::fs::remove_file(partial);
        }
    }
}
