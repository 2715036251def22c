//! Guides for clients name only what the protocol buffers have.
//!
//! `cargo xtask interop guides` runs the code of `docs/clients`, but needs other languages' tools; this needs none, and finds what a change of the
//! protocol buffers has left behind: a method, message, field or value of an enumeration that is not there any more.
//!
//! It looks at words, not at grammar. In a block of code a word counts if it stands where a name of the API may: behind a dot or before a colon or an equals sign, in
//! quotes before a colon, behind `fulcrum.v1.`, or in capitals with an underscore. It must then be a name in the protocol buffers or one of the
//! words of other libraries that are listed here. What is listed wrongly hides nothing but that word.

use std::collections::BTreeSet;

use super::{Finding, Tree};
use crate::fences::fences;

const GUIDES: &str = "docs/clients/";
const PROTOS: &str = "common/proto/fulcrum/v1/";

/// Words of Python, JavaScript, the shell and of their libraries, and names that guides give.
const FOREIGN: &str = "\
    CERTS FULCRUM_CERTS FULCRUM_ROOT_TOKEN FULCRUM_SECURED_ROUTER ID KEY ROUTER SECURED SESSION TOKEN UNAUTHENTICATED \
    access_token_call_credentials authorization combineChannelCredentials composite_channel_credentials \
    createFromMetadataGenerator createSsl insert join pem readFileSync rejects secure_channel set some \
    ssl_channel_credentials strip trim \
    _ add admin Any arrays as assert attempt attempts before call cancel Channel Check client close code condition \
    consistency CopyFrom createInsecure credentials deadline decode deepEqual defaults details encode end endsWith entries \
    enums env envelope environ equal error exit fail files find forEach found from from_call fromEntries fulcrum \
    FULCRUM_ROUTER Get get global group groups Has HasField Health health html id includeDirs includes insecure_channel js \
    keepCase keyspaces kv large length loader loadPackageDefinition loadSync log longFromHash longs lookupType low map \
    max_receive_message_length message Metadata metadata monotonic Name name node NOT_FOUND now observed oneofs options own \
    parse path proto protoc ref resolve resolvePath Root root row rpc_status RpcError service session sleep Status status \
    StatusCode stubs then timeout toObject toString total transactions type type_url types UNKNOWN_KEYSPACE Unpack url util \
    v1 value WhichOneof with within";

/// The names of the API.
struct Names {
    all: BTreeSet<String>,
    services: BTreeSet<String>,
}

/// Every word of a guide's code that stands where a name of the API may, and is none.
pub(super) fn names_in_guides(tree: &Tree) -> Vec<Finding> {
    let names = Names::of(tree);
    let foreign: BTreeSet<&str> = FOREIGN.split_whitespace().collect();
    let mut findings = Vec::new();
    let guides = tree.texts_ending_in(".md").filter(|(path, _)| path.starts_with(GUIDES));
    for (path, text) in guides {
        for (number, line) in code(text) {
            let unknown = words(line)
                .into_iter()
                .filter(|word| !names.know(word) && !foreign.contains(word.as_str()));
            findings.extend(unknown.map(|word| Finding {
                path: path.to_owned(),
                line: number,
                message: format!(
                    "the protocol buffers have no `{word}`: repair the guide, or list a word of another library in xtask/src/tidy/guides.rs"
                ),
            }));
        }
    }
    findings
}

impl Names {
    fn of(tree: &Tree) -> Self {
        let mut names = Self {
            all: BTreeSet::new(),
            services: BTreeSet::new(),
        };
        let protos = tree
            .texts_ending_in(".proto")
            .filter(|(path, _)| path.starts_with(PROTOS));
        for line in protos.flat_map(|(_, text)| text.lines()) {
            names.add(line.split("//").next().unwrap_or_default().trim());
        }
        names
    }

    /// One line declares one thing at most: that is how the protocol buffers are written.
    fn add(&mut self, line: &str) {
        let declared = match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["service", name, ..] => {
                self.services.insert(name.to_owned());
                name
            }
            ["message" | "enum" | "oneof" | "rpc", name, ..] => name.split('(').next().unwrap_or(name),
            // `type name = 1;`, `NAME = 1;`
            _ => match line
                .split_once('=')
                .and_then(|(left, _)| left.split_whitespace().last())
            {
                Some(name) => name,
                None => return,
            },
        };
        self.all.insert(declared.trim_matches(['{', '}']).to_owned());
    }

    /// Also as JSON spells it, and as Python's and JavaScript's stubs call services.
    fn know(&self, word: &str) -> bool {
        let stub = word
            .strip_suffix("Stub")
            .is_some_and(|service| self.services.contains(service));
        stub || self.all.contains(word) || self.all.contains(&snake(word))
    }
}

/// `issuedAtMs` as the protocol buffers have it.
fn snake(word: &str) -> String {
    let mut snake = String::new();
    for letter in word.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// The lines of code with their numbers; what is only to be read (`console`) is left out.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let run = fences(text).into_iter().filter(|fence| fence.language != "console");
    run.flat_map(|fence| fence.lines)
}

/// The words of a line that stand where a name of the API may.
fn words(line: &str) -> Vec<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    let mut rest = line;
    let mut previous = ' ';
    while let Some(start) = rest.find(is_part) {
        let before = rest[..start].chars().next_back().unwrap_or(previous);
        let end = rest[start..]
            .find(|letter| !is_part(letter))
            .map_or(rest.len(), |n| start + n);
        let (word, after) = (&rest[start..end], &rest[end..]);
        if counts(word, before, after) {
            found.push(word.to_owned());
        }
        previous = word.chars().next_back().unwrap_or(' ');
        rest = after;
    }
    found
}

fn counts(word: &str, before: char, after: &str) -> bool {
    if word.starts_with(|letter: char| letter.is_ascii_digit()) || word.ends_with("_pb2") || word.ends_with("_grpc") {
        return false;
    }
    let shouted = word.contains('_') && word.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_');
    let behind_a_dot = before == '.' || before == '/' && word.starts_with(|letter: char| letter.is_ascii_uppercase());
    let argument =
        after.starts_with('=') && !after.starts_with("==") && !after.starts_with("=>") && matches!(before, '(' | ' ');
    let label = after.starts_with("\":") || after.starts_with(": ") && matches!(before, '{' | ' ');
    shouted && !word.starts_with("FULCRUM_")
        || behind_a_dot
        || argument && after.len() > 1 && !after.starts_with("= ")
        || label
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTO: (&str, &str) = (
        "common/proto/fulcrum/v1/kv.proto",
        "service Kv {\n  // Reads.\n  rpc Get(GetRequest) returns (GetResponse);\n}\nmessage GetRequest {\n  string keyspace = 1;\n  oneof must {\n    \
         uint64 issued_at_ms = 2;\n  }\n  enum State {\n    STATE_KNOWN = 0;\n  }\n}\n",
    );

    fn found(guide: &str) -> Vec<usize> {
        let tree = Tree::of(&[PROTO, ("docs/clients/any.md", guide)]);
        names_in_guides(&tree).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn what_is_there_may_be_named_in_every_language() {
        let guide = "```python\nkv = kv_pb2_grpc.KvStub(channel)\nkv.Get(kv_pb2.GetRequest(keyspace=\"a\"), timeout=1)\n```\n\
                     ```js\nawait call(kv, 'Get', { keyspace: 'a' });\n```\n\
                     ```sh\nask fulcrum.v1.Kv/Get '{\"keyspace\": \"a\"}' | grep issuedAtMs\n```\n";
        assert_eq!(found(guide), Vec::<usize>::new());
    }

    #[test]
    fn what_is_not_there_is_found() {
        let guide = "```python\nkv.Fetch(request)\nkv_pb2.GetRequest(space=1)\nkv_pb2.STATE_LOST\nread.vaule\n```\n\
                     ```js\ncall(kv, 'Get', { space: 1 });\n```\n\
                     ```sh\nask fulcrum.v1.Kv/Fetch '{\"space\": 1}'\n```\n";
        assert_eq!(found(guide), [2, 3, 4, 5, 8, 11, 11]);
    }

    #[test]
    fn prose_and_what_is_only_to_be_read_is_left_alone() {
        assert_eq!(
            found("kv.Fetch\n```console\n$ npm install a.fetch\n```\n"),
            Vec::<usize>::new()
        );
    }
}
