//! A lexer for Rust: identifiers and punctuation with their lines. Comments, strings, numbers and lifetimes are passed over.

/// An identifier or keyword, `::`, or one character of punctuation. A literal is the empty text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// As written; `r#` is left out.
    pub text: &'a str,
    /// From 1.
    pub line: usize,
}

impl Token<'_> {
    /// Whether this is an identifier or a keyword.
    pub fn is_word(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// The tokens of a source that compiles.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut lexer = Lexer { rest: source, line: 1, found: Vec::new() };
    while lexer.step() {}
    lexer.found
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    found: Vec<Token<'a>>,
}

impl<'a> Lexer<'a> {
    /// Takes one token, comment or space; false at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        if self.rest.starts_with("//") {
            self.take(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.take(block_comment(self.rest));
        } else if first.is_whitespace() {
            self.take(first.len_utf8());
        } else if let Some(length) = string(self.rest) {
            self.literal(length);
        } else if self.rest.starts_with("b'") {
            self.literal(1 + quote(&self.rest[1..]));
        } else if first.is_alphabetic() || first == '_' {
            let raw = if self.rest.starts_with("r#") { 2 } else { 0 };
            self.take(raw);
            self.token(word(self.rest));
        } else if first.is_ascii_digit() {
            self.literal(number(self.rest));
        } else if first == '\'' {
            self.literal(quote(self.rest));
        } else {
            self.token(if self.rest.starts_with("::") { 2 } else { first.len_utf8() });
        }
        true
    }

    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }

    fn token(&mut self, length: usize) {
        let line = self.line;
        let text = self.take(length);
        self.found.push(Token { text, line });
    }

    fn literal(&mut self, length: usize) {
        self.found.push(Token { text: "", line: self.line });
        self.take(length);
    }
}

/// Length of the identifier at the start.
fn word(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// Length of the number at the start. A range's `..` is none of it.
fn number(text: &str) -> usize {
    let whole = word(text);
    let fraction =
        text[whole..].strip_prefix('.').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    fraction.map_or(whole, |rest| whole + 1 + word(rest))
}

/// Length of the nested comment at the start.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    for (at, pair) in text.as_bytes().windows(2).enumerate() {
        match pair {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => continue,
        }
        if depth == 0 {
            return at + 2;
        }
    }
    text.len()
}

/// Length of the string at the start, if there is one: plain, raw, of bytes or for C.
fn string(text: &str) -> Option<usize> {
    let prefix = text.find(|c: char| !matches!(c, 'b' | 'c' | 'r')).filter(|&length| length <= 2)?;
    let raw = text[..prefix].contains('r');
    let hashes = text[prefix..].find(|c| c != '#')?;
    let open = prefix + hashes;
    if !text[open..].starts_with('"') || (hashes > 0 && !raw) {
        return None;
    }
    let body = &text[open + 1..];
    let length = if raw {
        let close = format!("\"{}", "#".repeat(hashes));
        body.find(&close).map_or(body.len(), |at| at + close.len())
    } else {
        escaped_end(body, '"')
    };
    Some(open + 1 + length)
}

/// Length up to and with the closing mark, escapes passed over.
fn escaped_end(body: &str, mark: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == mark => return at + c.len_utf8(),
            _ => {}
        }
    }
    body.len()
}

/// Length of the lifetime or character at the start.
fn quote(text: &str) -> usize {
    let mut inner = text[1..].chars();
    let (first, second) = (inner.next(), inner.next());
    let lifetime = first.is_some_and(|c| c.is_alphabetic() || c == '_') && second != Some('\'');
    if lifetime { 1 + word(&text[1..]) } else { 1 + escaped_end(&text[1..], '\'') }
}

#[cfg(test)]
mod tests {
    use super::tokens;

    fn words(source: &str) -> Vec<&str> {
        tokens(source).into_iter().filter(super::Token::is_word).map(|token| token.text).collect()
    }

    #[test]
    fn what_is_no_code_is_passed_over() {
        let source = r##"a // b
            /* c /* d */ e */ f "g \" h" r#"i " j"# b'k' 'l' '\'' br"m" 'life n 1.5e3f o 0..p r#type "##;
        assert_eq!(words(source), ["a", "f", "n", "o", "p", "type"]);
    }

    #[test]
    fn lines_are_counted_in_comments_and_strings_too() {
        let found = tokens("/*\n*/ \"\n\" a\nb");
        assert_eq!(found.iter().map(|token| token.line).collect::<Vec<_>>(), [2, 3, 4]);
    }
}
