//! The faults of a certificate that an option may forgive.

use tokio_rustls::rustls::CertificateError;

/// Returns whether a certificate is for another name.
pub(super) fn is_name_fault(fault: &CertificateError) -> bool {
    matches!(fault, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
}

/// Returns whether a certificate is not valid now.
pub(super) fn is_time_fault(fault: &CertificateError) -> bool {
    matches!(
        fault,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}
