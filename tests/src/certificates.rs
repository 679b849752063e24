//! A certificate authority for one lab, and the configuration files that name its certificates.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::lab::Host;

/// Makes `ca.pem`, and `NAME.pem` and `NAME.key` for every name, in `dir`.
pub(crate) fn make(dir: &Path, names: &[&str]) -> io::Result<()> {
    let ca_key = KeyPair::generate().map_err(io::Error::other)?;
    let mut ca = CertificateParams::new(Vec::new()).map_err(io::Error::other)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "test lab");
    let ca_pem = ca.self_signed(&ca_key).map_err(io::Error::other)?.pem();
    fs::write(dir.join("ca.pem"), ca_pem)?;
    let issuer = Issuer::new(ca, ca_key);
    for name in names {
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let mut leaf =
            CertificateParams::new(vec![(*name).to_owned()]).map_err(io::Error::other)?;
        leaf.distinguished_name.push(DnType::CommonName, *name);
        let pem = leaf.signed_by(&key, &issuer).map_err(io::Error::other)?.pem();
        fs::write(dir.join(format!("{name}.pem")), pem)?;
        let file = dir.join(format!("{name}.key"));
        fs::write(&file, key.serialize_pem())?;
        // The daemons' users exist only once the host is up; the lab is gone a minute later.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Configuration of the collector.
pub(crate) fn collector_toml(host: &Host) -> String {
    let (name, address) = (host.name(), host.address());
    format!(
        "grpc = \"{address}:8502\"\ntls-client-ca = \"/etc/why502/tls/ca.pem\"\n\
         tls-cert = \"/etc/why502/tls/{name}.pem\"\ntls-key = \"/etc/why502/tls/{name}.key\"\n"
    )
}

/// Configuration of an agent.
pub(crate) fn agent_toml(host: &Host, collector: &Host) -> String {
    let (name, collector) = (host.name(), collector.name());
    format!(
        "collector = \"https://{collector}:8502\"\ntls-ca = \"/etc/why502/tls/ca.pem\"\n\
         tls-cert = \"/etc/why502/tls/{name}.pem\"\ntls-key = \"/etc/why502/tls/{name}.key\"\n"
    )
}
