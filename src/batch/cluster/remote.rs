//! A shared place that is a bucket: S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage.
//!
//! Keys, regions and endpoints come from the usual variables of the environment (`AWS_…`, `GOOGLE_…`, `AZURE_…`) and
//! from the machine's own identity in a cloud.

use super::http::Connector;
use super::objects::{Creation, Item, Objects};
use crate::error::{Error, Result};
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Most bytes of an object that is read.
const LIMIT: u64 = 1 << 30;
/// How often and how long the crate itself tries again what may be repeated.
const RETRIES: usize = 3;
const RETRY_TIME: Duration = Duration::from_secs(30);

/// A bucket, and the folder in it.
#[derive(Debug)]
pub struct Remote {
    url: String,
    store: Arc<dyn ObjectStore>,
    prefix: String,
    runtime: Runtime,
}

impl Remote {
    /// The bucket and folder `url`: `s3://BUCKET/FOLDER`, `gs://…` or `az://CONTAINER/FOLDER`.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for another URL and for settings that cannot work.
    pub fn open(url: &str) -> Result<Self> {
        let wrong = |why: String| Error::bad_request("out", url, why);
        let (kind, rest) = url.split_once("://").unwrap_or_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() || rest.contains(['?', '#', '@']) {
            return Err(wrong(
                "expected s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER".into(),
            ));
        }
        let retry = RetryConfig {
            max_retries: RETRIES,
            retry_timeout: RETRY_TIME,
            ..RetryConfig::default()
        };
        let root = format!("{kind}://{bucket}");
        let store: Result<Arc<dyn ObjectStore>, object_store::Error> = match kind {
            "s3" => AmazonS3Builder::from_env()
                .with_url(root)
                .with_retry(retry)
                .with_http_connector(Connector)
                .build()
                .map(|store| Arc::new(store) as _),
            "gs" => GoogleCloudStorageBuilder::from_env()
                .with_url(root)
                .with_retry(retry)
                .with_http_connector(Connector)
                .build()
                .map(|store| Arc::new(store) as _),
            "az" => MicrosoftAzureBuilder::from_env()
                .with_url(root)
                .with_retry(retry)
                .with_http_connector(Connector)
                .build()
                .map(|store| Arc::new(store) as _),
            _ => return Err(wrong("expected s3://, gs:// or az://".into())),
        };
        Self::over(store.map_err(|error| wrong(error.to_string()))?, url, prefix)
    }

    /// The folder `prefix` of a store; `url`: what the user calls it.
    ///
    /// # Errors
    /// [`Error::Threads`].
    pub fn over(store: Arc<dyn ObjectStore>, url: &str, prefix: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(|source| Error::Threads { source })?;
        let mut prefix = prefix.trim_matches('/').to_owned();
        if !prefix.is_empty() {
            prefix.push('/');
        }
        Path::parse(&prefix).map_err(|e| Error::bad_request("out", url, e.to_string()))?;
        Ok(Self { url: url.trim_end_matches('/').to_owned(), store, prefix, runtime })
    }

    fn path(&self, name: &str) -> Result<Path> {
        Path::parse(format!("{}{name}", self.prefix))
            .map_err(|error| Error::Internal(format!("a name in a bucket: {error}")))
    }

    fn write(&self, name: &str, bytes: &[u8], mode: PutMode) -> Result<Creation> {
        let path = self.path(name)?;
        let options = PutOptions { mode, ..PutOptions::default() };
        let put = self.store.put_opts(&path, bytes.to_vec().into(), options);
        match self.runtime.block_on(put) {
            Ok(_) => Ok(Creation::Made),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(Creation::Taken),
            Err(error) => Err(Error::write(self.title(name), of_system(error))),
        }
    }

    fn unreadable(&self, name: &str, error: object_store::Error) -> Error {
        Error::io(self.title(name), of_system(error))
    }
}

impl Objects for Remote {
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Creation> {
        self.write(name, bytes, PutMode::Create)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, bytes, PutMode::Overwrite).map(drop)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.path(name)?;
        let read = async {
            let found = match self.store.get(&path).await {
                Err(object_store::Error::NotFound { .. }) => return Ok(None),
                other => other?,
            };
            let size = found.meta.size;
            if size > LIMIT {
                return Ok(Some(Err(size)));
            }
            Ok(Some(Ok(found.bytes().await?.to_vec())))
        };
        match self.runtime.block_on(read).map_err(|error| self.unreadable(name, error))? {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(asked)) => {
                Err(Error::Limit { what: "bytes of an object", allowed: LIMIT, asked })
            }
        }
    }

    fn length(&self, name: &str) -> Result<Option<u64>> {
        let path = self.path(name)?;
        match self.runtime.block_on(self.store.head(&path)) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.unreadable(name, error)),
        }
    }

    fn list(&self, below: &str) -> Result<Vec<Item>> {
        let path = Path::from(format!("{}{below}", self.prefix));
        let found = self.store.list(Some(&path)).try_collect::<Vec<_>>();
        let found = self.runtime.block_on(found).map_err(|error| self.unreadable(below, error))?;
        let item = |meta: object_store::ObjectMeta| {
            let name = meta.location.as_ref().strip_prefix(&self.prefix)?.to_owned();
            Some(Item { name, bytes: meta.size })
        };
        Ok(found.into_iter().filter_map(item).collect())
    }

    fn title(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }
}

/// An error with the kind that tells whether another try may help.
fn of_system(error: object_store::Error) -> io::Error {
    let kind = match &error {
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => ErrorKind::PermissionDenied,
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
            ErrorKind::Unsupported
        }
        _ => ErrorKind::NotConnected,
    };
    io::Error::new(kind, error)
}
