//! No secret leaves the host: command lines, URLs and log lines pass through here where they are read.
//!
//! No list of secrets is complete, so there are two nets. The first knows names (`password=`, `Authorization:`,
//! `--token x`, the user part and the query of a URL); the second knows looks (long hexadecimal or base64 text, keys
//! with the prefix of a known issuer, JWTs, PEM). When in doubt it hides: a hidden word costs a glance at the
//! host's own log, a shown one cannot be taken back.

mod looks;
#[cfg(test)]
mod tests;

use std::ops::Range;

use looks::{issued_key, pem, random_run};

/// What stands where a secret stood.
pub const HIDDEN: &str = "***";

/// Longest text that leaves, in bytes: a line of a log is evidence, not an archive.
pub const TEXT_MAX: usize = 300;

/// How much of the input is looked at: enough for `TEXT_MAX` bytes behind a long secret, and a 1 MiB line costs no more
/// than a short one.
const LOOK_MAX: usize = 4096;

/// Longest name before a `=` or `:` that is compared with the words below.
const NAME_MAX: usize = 64;

/// A name that contains one of these, without its separators, names a secret.
const SECRET_WORDS: [&str; 18] = [
    "accesskey",
    "apikey",
    "authorization",
    "bearer",
    "connectionstring",
    "cookie",
    "credential",
    "encryptionkey",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "sessionid",
    "signature",
    "token",
];

/// A name whose last part is one of these names a secret: DB_PASS, REDISCLI_AUTH, STRIPE_KEY.
const SECRET_ENDINGS: [&str; 6] = ["auth", "key", "pass", "psk", "pw", "sid"];

/// Where in `rest`, which follows the character `before`, a secret stands. `rest` is never empty.
type Matcher = fn(before: char, rest: &str) -> Option<Range<usize>>;

/// All that is known about secrets; the first that matches decides.
const MATCHERS: [Matcher; 8] =
    [pem, query, named_value, scheme, issued_key, userinfo, glued_flag, random_run];

/// A log line, or any text of a program: without secrets, control characters or invalid UTF-8, at most
/// [`TEXT_MAX`] bytes.
pub fn line(text: impl AsRef<[u8]>) -> String {
    bounded(&hide(&readable(text.as_ref())))
}

/// A URL: without user, password and query. Like [`line()`], under a name that says what goes in.
pub fn url(text: impl AsRef<[u8]>) -> String {
    line(text)
}

/// A command line as in /proc/PID/cmdline: arguments that end with NUL. An argument that is a secret as a whole, for
/// what stands before it, is hidden as a whole, blanks and all.
pub fn command(cmdline: impl AsRef<[u8]>) -> String {
    let bytes = cmdline.as_ref();
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let mut text = String::new();
    let mut program = String::new();
    let mut secret_follows = false;
    for argument in bytes.split(|byte| *byte == 0) {
        if text.len() > TEXT_MAX {
            break;
        }
        let argument = readable(argument);
        if program.is_empty() {
            program = argument.rsplit('/').next().unwrap_or_default().to_owned();
        } else {
            text.push(' ');
        }
        text.push_str(&match hidden_argument(&program, &argument) {
            _ if secret_follows => HIDDEN.to_owned(),
            Some(hidden) => hidden,
            None => hide(&argument),
        });
        secret_follows = !secret_follows && announces_secret(&program, &argument);
    }
    bounded(&text)
}

/// `NAME=value with blanks` and `mysql -pSECRET`: the argument ends the secret, not the blank.
fn hidden_argument(program: &str, argument: &str) -> Option<String> {
    if let Some((name, _)) = argument.split_once('=')
        && name.bytes().all(is_name_byte)
        && is_secret_name(name, '=')
    {
        return Some(format!("{name}={HIDDEN}"));
    }
    let glued = argument.len() > 2 && argument.starts_with("-p") && takes_glued_password(program);
    glued.then(|| format!("-p{HIDDEN}"))
}

/// `--password`, `curl -u`, `redis-cli -a`, `sshpass -p`: the next argument is the secret.
fn announces_secret(program: &str, argument: &str) -> bool {
    let flag = match program {
        "redis-cli" => argument == "-a",
        "sshpass" => argument == "-p",
        "curl" | "wget" => ["-u", "--user", "-U", "--proxy-user", "-b"].contains(&argument),
        _ => false,
    };
    let glued = argument.starts_with("-p") && takes_glued_password(program);
    flag || (argument.starts_with('-')
        && !glued
        && argument.bytes().all(is_name_byte)
        && is_secret_name(argument, '='))
}

fn takes_glued_password(program: &str) -> bool {
    program.starts_with("mysql") || program.starts_with("mariadb") || program == "sshpass"
}

/// The first [`LOOK_MAX`] bytes as text on one line. A word that the bound cuts is left out: its half might not look
/// like the secret that it is.
fn readable(bytes: &[u8]) -> String {
    let cut = bytes.len() > LOOK_MAX;
    let mut look = &bytes[..bytes.len().min(LOOK_MAX)];
    if cut {
        let end = look.iter().rposition(|byte| byte.is_ascii_whitespace()).map_or(0, |at| at + 1);
        look = &look[..end];
    }
    let mut text: String = String::from_utf8_lossy(look)
        .trim_end()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if cut {
        text.push_str(" …");
    }
    text
}

/// Cuts at a character boundary, and shows that it did.
fn bounded(text: &str) -> String {
    if text.len() <= TEXT_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(TEXT_MAX - '…'.len_utf8())])
}

fn hide(text: &str) -> String {
    let mut shown = String::new();
    let mut before = ' ';
    let mut rest = text;
    // What is beyond the bound is not shown, so it need not be read.
    while let Some(first) = rest.chars().next()
        && shown.len() <= TEXT_MAX
    {
        let secret = MATCHERS.iter().find_map(|matcher| matcher(before, rest));
        let taken = if let Some(secret) = secret {
            shown.push_str(&rest[..secret.start]);
            shown.push_str(HIDDEN);
            before = '*';
            secret.end
        } else {
            shown.push(first);
            before = first;
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    shown
}

/// `/path?query`: nobody knows what applications put there.
fn query(before: char, rest: &str) -> Option<Range<usize>> {
    let value = rest.strip_prefix('?')?;
    let end =
        1 + value.find(|c: char| c.is_whitespace() || "\"'`".contains(c)).unwrap_or(value.len());
    let is_query = before == '/' || rest[..end].contains('=');
    // "what?" and "really?!" are no queries, "/search?x" is.
    let in_path =
        before.is_ascii_alphanumeric() && rest[1..end].bytes().any(|b| b.is_ascii_alphanumeric());
    (end > 1 && (is_query || in_path)).then_some(1..end)
}

/// `password=x`, `"token": "x y"`, `Authorization: Basic x`, `--secret x`.
fn named_value(before: char, rest: &str) -> Option<Range<usize>> {
    if is_word(before) || !rest.starts_with(|c: char| is_word(c) || c == '-') {
        return None;
    }
    let name_end = rest.bytes().take(NAME_MAX).take_while(|byte| is_name_byte(*byte)).count();
    let name = &rest[..name_end];
    let after = &rest[name_end..];
    let quoted_name = ["\\\"", "\"", "'"].into_iter().find(|quote| after.starts_with(quote));
    let after = &after[quoted_name.map_or(0, str::len)..];
    let separated = after.trim_start_matches(' ');
    let value = match separated.chars().next()? {
        '=' => separated.trim_start_matches(['=', '>']),
        ':' if separated.len() == after.len() && !after.starts_with("::") => {
            after[1..].trim_start_matches('=')
        }
        // A scheme stands between name and value, or a flag before both.
        _ if separated.len() < after.len() && is_scheme_or_flag(name, separated) => separated,
        _ => return None,
    };
    let separator = separated.chars().next().filter(|c| *c == ':').unwrap_or('=');
    if !is_secret_name(name, separator) {
        return None;
    }
    let value = value.trim_start_matches([' ', '[', '(', '{']);
    let start = rest.len() - value.len();
    let header = ["authorization", "cookie"].iter().any(|h| plain(name).contains(h));
    let end = start + value_end(value, header, before, quoted_name.is_some());
    (end > start).then_some(start..end)
}

/// `--password x`, `Bearer x`, `Basic dXNlcjpwYXNz`; not "bearer of" or "basic settings".
fn is_scheme_or_flag(name: &str, value: &str) -> bool {
    let word = value.split(' ').next().unwrap_or_default();
    if name.starts_with('-') {
        return !word.starts_with("--");
    }
    name.eq_ignore_ascii_case("bearer") && word.len() >= 8
}

/// Length of the value: to its closing quote, to the end of a header, or to the next blank.
fn value_end(value: &str, header: bool, before_name: char, quoted_name: bool) -> usize {
    for quote in ["\\\"", "\"", "'"] {
        if let Some(inner) = value.strip_prefix(quote) {
            return quote.len() + closing(inner, quote).map_or(inner.len(), |at| at + quote.len());
        }
    }
    let enclosing = if quoted_name {
        None
    } else {
        ["\"", "'"].into_iter().find(|q| q.starts_with(before_name))
    };
    let end = enclosing.and_then(|quote| closing(value, quote)).unwrap_or(value.len());
    if header { end } else { value[..end].find(char::is_whitespace).unwrap_or(end) }
}

/// Where `quote` stands in `text` without a backslash before it.
fn closing(text: &str, quote: &str) -> Option<usize> {
    text.match_indices(quote).map(|(at, _)| at).find(|at| !text[..*at].ends_with('\\'))
}

/// `Basic dXNlcjpwYXNz` without the header's name.
fn scheme(before: char, rest: &str) -> Option<Range<usize>> {
    let name = rest.get(..6)?;
    if is_word(before) || !name.eq_ignore_ascii_case("basic ") {
        return None;
    }
    let word = rest[6..].split([' ', '"', '\'']).next()?;
    let encoded =
        word.len() >= 8 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
    let mixed = word[1.min(word.len())..]
        .bytes()
        .any(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'=');
    (encoded && mixed).then_some(6..6 + word.len())
}

/// `scheme://user:password@host` and `user:password@tcp(host)`.
fn userinfo(before: char, rest: &str) -> Option<Range<usize>> {
    if is_word(before) || !rest.starts_with(is_word) {
        return None;
    }
    let word =
        &rest[..rest.find(|c: char| c.is_whitespace() || "\"'".contains(c)).unwrap_or(rest.len())];
    if let Some(at) = word.find("://") {
        let start = at + 3;
        let authority = word[start..].split(['/', '?', '#']).next()?;
        // A password may hold a raw `/`; then the `@` stands behind it, before any dot of a path.
        let end = authority.rfind('@').or_else(|| {
            word[start..].rfind('@').filter(|end| word[start..start + end].contains(':'))
        })?;
        return (end > 0).then_some(start..start + end);
    }
    let colon = word.find(':')?;
    let end = colon + word[colon..].rfind('@')?;
    (end > colon + 1).then_some(colon + 1..end)
}

/// `mysql -pSECRET` inside of a shell's argument, where the program is not known: only where mysql stands before.
fn glued_flag(before: char, rest: &str) -> Option<Range<usize>> {
    if is_word(before) || !(rest.starts_with("mysql") || rest.starts_with("mariadb")) {
        return None;
    }
    let flag = rest.find(" -p")? + 3;
    let value = rest[flag..].split([' ', ';', '|']).next()?;
    (!value.is_empty()).then_some(flag..flag + value.len())
}

/// Whether `name`, with `separator` behind it, announces a secret.
fn is_secret_name(name: &str, separator: char) -> bool {
    let plain = plain(name);
    if SECRET_WORDS.iter().any(|word| plain.contains(word)) {
        return true;
    }
    SECRET_ENDINGS.iter().any(|ending| {
        let Some(stem) = plain.strip_suffix(ending) else { return false };
        // "auth: failed" and "key: 5" are words; "auth=…" and "db_auth: …" are settings.
        let own_part = name[..name.len() - ending.len()].ends_with(['-', '_', '.']);
        let camel = name[name.len() - ending.len()..].starts_with(|c: char| c.is_ascii_uppercase());
        if stem.is_empty() { separator == '=' } else { own_part || camel }
    })
}

/// Without separators, in lower case.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
