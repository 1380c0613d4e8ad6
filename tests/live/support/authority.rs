//! Certificates for the servers and clients of a test.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
};

/// The subject of a client's certificate as mongod spells it: the name of its user on `$external`.
pub(crate) const CLIENT_SUBJECT: &str = "CN=app,OU=clients,O=mongolink";

/// A private authority with a key of its own.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = params(&[], &[(DnType::CommonName, name)]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    /// Returns its own certificate as PEM.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Returns the certificate and key of servers on this machine as PEM.
    pub(crate) fn server_pem(&self) -> String {
        self.issue(&["localhost", "127.0.0.1"], "servers", "localhost")
    }

    /// Returns the certificate and key of [`CLIENT_SUBJECT`] as PEM.
    pub(crate) fn client_pem(&self) -> String {
        self.issue(&[], "clients", "app")
    }

    fn issue(&self, names: &[&str], unit: &str, common: &str) -> String {
        let subject = [(DnType::OrganizationName, "mongolink"), (DnType::OrganizationalUnitName, unit), (DnType::CommonName, common)];
        let key = KeyPair::generate().expect("a key");
        let certificate = params(names, &subject).signed_by(&key, &self.0).expect("a certificate");
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }
}

fn params(names: &[&str], subject: &[(DnType, &str)]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params.distinguished_name = DistinguishedName::new();
    for (kind, value) in subject {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params
}
