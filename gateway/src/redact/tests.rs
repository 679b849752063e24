use proptest::prelude::*;

use super::*;

#[track_caller]
fn check(text: &str, shown: &str) {
    assert_eq!(line(text), shown);
}

#[track_caller]
fn unchanged(text: &str) {
    check(text, text);
}

#[test]
fn names_hide_their_values() {
    check("DB_PASSWORD=hunter2 started", "DB_PASSWORD=*** started");
    check("password = \"two words\" user=bob", "password = *** user=bob");
    check(r#"{"apiKey":"abc","port":80}"#, r#"{"apiKey":***,"port":80}"#);
    check(r#"{\"token\":\"two words\",\"port\":80}"#, r#"{\"token\":***,\"port\":80}"#);
    check("client_secret: 'x y'; next", "client_secret: ***; next");
    check("run --password hunter2 --port 80", "run --password *** --port 80");
    check("run --api-key=abc --port 80", "run --api-key=*** --port 80");
    check("REDISCLI_AUTH=abc STRIPE_KEY=def", "REDISCLI_AUTH=*** STRIPE_KEY=***");
    check(
        "{headers: {\"authorization\":[\"Bearer a b\"]}}",
        "{headers: {\"authorization\":[***]}}",
    );
}

#[test]
fn headers_are_hidden_to_their_end() {
    check("Authorization: Basic dXNlcjpwYXNz", "Authorization: ***");
    check("got Cookie: a=b; c=\"d e\"; f", "got Cookie: ***");
    check("-H \"Cookie: a=b; c=d\" http://h/", "-H \"Cookie: ***\" http://h/");
    check("sent Bearer abcdefgh to peer", "sent Bearer *** to peer");
    check("sent Basic dXNlcjpwYXNz to peer", "sent Basic *** to peer");
}

#[test]
fn urls_lose_user_and_query() {
    check("postgres://app:pw@db:5432/x?sslmode=no", "postgres://***@db:5432/x?***");
    check("http://a:p@ss@h/", "http://***@h/");
    check("redis://:p/w@h:6379/0", "redis://***@h:6379/0");
    check("root:pw@tcp(127.0.0.1:3306)/db", "root:***@tcp(127.0.0.1:3306)/db");
    check("\"GET /login?user=a HTTP/1.1\"", "\"GET /login?*** HTTP/1.1\"");
    assert_eq!(url("https://h/p?a=b"), "https://h/p?***");
}

#[test]
fn looks_betray_secrets_without_a_name() {
    check("id d41d8cd98f00b204e9800998ecf8427e ok", "id *** ok");
    check("using ghp_16C7e42F292c6912E7710c838347Ae178B4a", "using ***");
    check("k wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY.", "k ***.");
    check("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln seen", "jwt *** seen");
    check("-----BEGIN RSA PRIVATE KEY----- MIIE", "***");
}

#[test]
fn ordinary_lines_are_unchanged() {
    for text in [
        "connect() failed (111: Connection refused) while connecting to upstream, client: 127.0.0.1, server: , \
         request: \"GET /api HTTP/1.1\", upstream: \"http://10.0.0.7:8080/api\", host: \"gw\"",
        "[pool www] child 12 exited on signal 9 (SIGKILL) after 1.203 seconds from start",
        "[CRITICAL] WORKER TIMEOUT (pid:4121)",
        "Memory cgroup out of memory: Killed process 4121 (node) total-vm:1048576kB, anon-rss:524288kB",
        "api.service: Main process exited, code=killed, status=9/KILL",
        "Error: listen EADDRINUSE: address already in use 0.0.0.0:8080",
        "Failed password for root from 10.0.0.9 port 22 ssh2",
        "SyntaxError: Unexpected token < in JSON at position 0",
        "at com.example.HttpServletRequestWrapperImpl2.handle(HttpServletRequestWrapperImpl2.java:41)",
        "/usr/lib/x86_64-linux-gnu/libsystemd.so.0.35.0: cannot open shared object file",
        "request 7f3c2a10-9b1e-4c55-8d0e-0a1b2c3d4e5f took 12 ms",
        "user@1000.service: Succeeded. What now? Nothing.",
        "auth: Error: no such user; key: 5; the bearer of this",
        "use the basic configuration, passwordless login, std::secret::Token::new",
        "Ünïcödé ✓ naïve",
    ] {
        unchanged(text);
    }
}

#[test]
fn commands_keep_the_bounds_of_their_arguments() {
    #[track_caller]
    fn check(arguments: &[&str], shown: &str) {
        assert_eq!(command(arguments.join("\0") + "\0"), shown);
    }
    check(&["/usr/bin/app", "--password", "two words", "-v"], "/usr/bin/app --password *** -v");
    check(&["env", "DB_PASS=two words", "app"], "env DB_PASS=*** app");
    check(&["mysqldump", "-psecret", "db"], "mysqldump -p*** db");
    check(&["sh", "-c", "mysql -psecret db"], "sh -c mysql -p*** db");
    check(&["curl", "-u", "bob:pw", "-H", "X-Api-Key: a b"], "curl -u *** -H X-Api-Key: *** b");
    check(&["redis-cli", "-a", "--x"], "redis-cli -a ***");
    check(&["nginx", "-p", "/srv", "-g", "daemon off;"], "nginx -p /srv -g daemon off;");
    check(&["app", "-p8080"], "app -p8080");
    assert_eq!(command(""), "");
}

#[test]
fn long_and_broken_text_is_bounded_and_readable() {
    let long = line("é".repeat(1 << 20));
    assert_eq!(long, " …", "a word that nobody can see the end of is not shown");
    let words = line("é ".repeat(1 << 19));
    assert!(words.len() <= TEXT_MAX && words.ends_with("é …"), "{words}");
    assert_eq!(line(b"a\xff\xfeb\x1b[31m\n"), "a\u{fffd}\u{fffd}b [31m");
    let hidden = line(format!("{} password={}", "x ".repeat(2000), "s".repeat(300)));
    assert!(!hidden.contains("sss"));
}

/// Secrets without a look of their own: found by their name only.
fn named_secret() -> impl Strategy<Value = String> {
    "[A-Za-z0-9!#$%^*+.,/_~@-]{6,40}"
}

proptest! {
    #[test]
    fn planted_secrets_never_survive(
        secret in named_secret(),
        name in proptest::sample::select(vec![
            "password=", "DB_PASSWORD=", "--password ", "--token=", "api_key: ", "\"secret\": \"", "Authorization: Bearer ",
            "Set-Cookie: sid=", "https://h/p?x=", "clientSecret='", "passwd:", "AWS_SECRET_ACCESS_KEY=",
        ]),
        before in "[a-z ]{0,30}", after in "( [a-z ]{0,30})?",
    ) {
        let secret = format!("Z{secret}");
        let close = match name { n if n.ends_with('"') => "\"", n if n.ends_with('\'') => "'", _ => "" };
        let text = format!("{before} {name}{secret}{close}{after}");
        let shown = line(&text);
        prop_assert!(!shown.contains(&secret), "{} -> {}", text, shown);
        prop_assert!(shown.contains(HIDDEN), "{} -> {}", text, shown);
    }

    #[test]
    fn passwords_in_urls_never_survive(secret in "Z[A-Za-z0-9!$%^*+.,_~:@-]{3,30}", user in "[a-z]{0,8}") {
        let shown = line(format!("dial amqp://{user}:{secret}@mq:5672/v failed"));
        prop_assert_eq!(shown, "dial amqp://***@mq:5672/v failed");
    }

    #[test]
    fn long_hexadecimal_never_survives(hex in "[0-9a-f]{32,64}", before in "[a-z]{0,9}[ =:(\"]") {
        let shown = line(format!("{before}{hex} end"));
        prop_assert!(!shown.contains(&hex), "{}", shown);
    }

    #[test]
    fn arguments_of_secret_flags_never_survive(secret in "Z[ -~]{3,30}") {
        let shown = command(format!("app\0--password\0{secret}\0API_TOKEN={secret}\0-v"));
        prop_assert_eq!(shown, "app --password *** API_TOKEN=*** -v");
    }

    #[test]
    fn anything_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let shown = line(&bytes);
        prop_assert!(shown.len() <= TEXT_MAX && !shown.contains(char::is_control));
        prop_assert!(command(&bytes).len() <= TEXT_MAX);
    }

    #[test]
    fn plain_words_are_unchanged(text in "[a-z]{1,9}( [a-z]{1,9}| [0-9]{1,5}| /[a-z]{1,9}){0,12}") {
        prop_assert_eq!(line(&text), text);
    }
}
