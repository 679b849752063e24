//! Asking the collector over HTTP.

use std::io::{BufReader, Read as _};
use std::time::Duration;

use serde_json::Value;
use ureq::http::Response;
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use super::Common;
use super::error::CliError;

/// A local answer takes milliseconds, a day's timeline over a slow line some seconds.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Three heartbeats of the events.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// 10,000 facts of the largest size.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

const URL_HINT: &str = "write it as http://HOST:8503, or https://HOST where a proxy is in front";

/// One collector.
#[derive(Debug)]
pub(super) struct Client {
    url: String,
    /// For https only.
    tls: Option<TlsConfig>,
}

impl Client {
    pub(super) fn new(common: &Common) -> Result<Self, CliError> {
        let url = common.url.trim_end_matches('/');
        let secure = url.strip_prefix("https://");
        let host = secure.or(url.strip_prefix("http://")).unwrap_or_default();
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(CliError::Url { url: common.url.clone(), hint: URL_HINT });
        }
        let tls = secure.map(|_| common.tls.read()).transpose()?;
        Ok(Self { url: url.to_owned(), tls })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The JSON that `path` answers with the given parameters; empty values are left out.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, CliError> {
        let agent: Agent = self.config().timeout_global(Some(ANSWER_MAX)).build().new_agent();
        let response = self.ask(&agent, path, query)?;
        let mut body = vec![];
        let mut reader = response.into_body().into_reader().take(ANSWER_BYTES_MAX);
        reader
            .read_to_end(&mut body)
            .map_err(|error| self.protocol(format!("the answer broke off ({error})")))?;
        serde_json::from_slice(&body).map_err(|error| self.protocol(format!("no JSON ({error})")))
    }

    /// The message that `path` answers.
    pub(super) fn message<M>(&self, path: &str, query: &[(&str, &str)]) -> Result<M, CliError>
    where
        M: prost::Message + prost::Name + Default,
    {
        self.read(&self.get(path, query)?)
    }

    /// The message in `json`.
    pub(super) fn read<M: prost::Message + prost::Name + Default>(
        &self,
        json: &Value,
    ) -> Result<M, CliError> {
        why502_proto::from_json(json).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})"));
            self.protocol(format!("{error}{}", cause.unwrap_or_default()))
        })
    }

    /// The endless answer of `path`, which breaks off when it is silent for too long.
    pub(super) fn stream(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<BufReader<impl std::io::Read + use<>>, CliError> {
        let agent: Agent = self.config().timeout_per_read(Some(SILENCE_MAX)).build().new_agent();
        Ok(BufReader::new(self.ask(&agent, path, query)?.into_body().into_reader()))
    }

    fn config(&self) -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
        let tls = self.tls.clone().unwrap_or_default();
        Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            // What goes to a collector on this machine must not go to a proxy.
            .proxy(None)
            .max_redirects(0)
    }

    fn ask(
        &self,
        agent: &Agent,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Response<Body>, CliError> {
        let mut request = agent.get(format!("{}{path}", self.url));
        for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.query(*name, *value);
        }
        let response = request.call().map_err(|source| match source {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
                CliError::Url { url: self.url.clone(), hint: URL_HINT }
            }
            source => CliError::Unreachable { url: self.url.clone(), source: Box::new(source) },
        })?;
        let status = response.status().as_u16();
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(self.refused(status, response))
        }
    }

    /// The problem document of an answer; another server's error page is no such thing.
    fn refused(&self, status: u16, response: Response<Body>) -> CliError {
        let text = response.into_body().read_to_string().unwrap_or_default();
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        match (problem["detail"].as_str(), problem["hint"].as_str()) {
            (Some(detail), Some(hint)) => {
                CliError::Refused { status, detail: detail.to_owned(), hint: hint.to_owned() }
            }
            _ => self.protocol(format!("status {status} without a problem document")),
        }
    }

    fn protocol(&self, what: String) -> CliError {
        CliError::Protocol { url: self.url.clone(), what }
    }
}

/// `text` as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escaped = |byte: u8| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escaped).collect()
}
