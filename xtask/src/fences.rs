//! Blocks of code in Markdown, between lines that begin with three backquotes: those of guides are run, and their words looked up.

/// A block of code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fence<'a> {
    /// What is said of it where it opens: its language.
    pub(crate) language: &'a str,
    /// Its lines without the fences, with their numbers in the text from 1.
    pub(crate) lines: Vec<(usize, &'a str)>,
}

/// All blocks, in order. One that is never closed goes to the end.
pub(crate) fn fences(text: &str) -> Vec<Fence<'_>> {
    let mut found = Vec::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((_, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            found.push(Fence {
                language: language.trim(),
                lines: lines
                    .by_ref()
                    .take_while(|(_, line)| !line.starts_with("```"))
                    .collect(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart_by_their_language_and_keep_their_numbers() {
        let text = "# T\n```sh\nls\n```\ntext `python`\n``` python\na = 1\n\n```\n```console\n$ ls\n";
        let fence = |language, lines: &[(usize, &'static str)]| Fence {
            language,
            lines: lines.to_vec(),
        };
        let wanted = [
            fence("sh", &[(3, "ls")]),
            fence("python", &[(7, "a = 1"), (8, "")]),
            fence("console", &[(11, "$ ls")]),
        ];
        assert_eq!(fences(text), wanted);
    }
}
