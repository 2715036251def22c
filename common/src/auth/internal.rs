//! What services show each other: one secret of the cluster, at every internal call and stream.

use super::text::{INTERNAL, Secret, SecretHash};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// The secret, in its two forms: as it is shown, and as it is recognised.
#[derive(Clone, Debug)]
pub struct InternalSecret {
    shown: Internal,
    hash: SecretHash,
}

impl InternalSecret {
    /// Of a secret.
    #[must_use]
    pub fn new(secret: &Secret) -> Self {
        let shown = format!("Bearer {}", secret.to_text(INTERNAL));
        let mut shown: Option<MetadataValue<Ascii>> = shown.parse().ok();
        if let Some(shown) = &mut shown {
            shown.set_sensitive(true);
        }
        Self {
            shown: Internal(shown),
            hash: secret.hash(),
        }
    }

    /// For the calls that this service makes.
    #[must_use]
    pub fn to_show(&self) -> Internal {
        self.shown.clone()
    }

    pub(super) fn is(&self, secret: &Secret) -> bool {
        self.hash.is_of(secret)
    }
}

/// Puts the cluster's secret into each call to another service; nothing if the cluster has none. Not shown by `Debug`.
#[derive(Clone, Default)]
pub struct Internal(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Internal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() {
            "Internal(..)"
        } else {
            "Internal(none)"
        })
    }
}

impl Interceptor for Internal {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(shown) = &self.0 {
            request.metadata_mut().insert("authorization", shown.clone());
        }
        Ok(request)
    }
}
