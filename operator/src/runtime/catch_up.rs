//! What a process makes sure of when it begins to lead: that its watches show what is stored.
//!
//! Another process may have led until a moment ago. It has acted on a spec, ended a pod or changed
//! a size, and what it remembered of that is gone with it. A watch shows such writes a moment late,
//! and one whose connection has died without a word shows none for as long as its client waits.
//! Decisions on such caches would undo what that process did, or end another pod beside its last.

use super::context::Context;
use super::server::{Missing, Readiness};
use crate::apply::objects::resource;
use crate::kubernetes::error_text::plain;
use crate::kubernetes::{Kind, ResourceVersion};
use crate::observe::caches::ObjectName;
use futures::AsyncReadExt as _;
use futures::future::join_all;
use kube::api::{DynamicObject, ListParams};
use kube::core::Request;
use kube::{Client, Resource as _};
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep, timeout};

/// Versions come in pages of so many objects.
pub(super) const PAGE: u32 = 500;
/// Longest page that is read: the metadata of an object may be as long as etcd takes, and some of
/// these listings come in at the same time. The watch itself lists in smaller pages.
const LONGEST_PAGE: u64 = 8 * 1024 * 1024;
/// Listings that come in at the same time.
const LISTINGS: usize = 3;
/// Longest that one of them may take, all its pages together.
const LISTED_WITHIN: Duration = Duration::from_secs(5);
/// A watch that stands is behind by a fraction of this.
pub(super) const CATCH_UP: Duration = Duration::from_secs(1);
/// How often what is stored is listed: what was listed and then deleted, while the watch has shown
/// neither, is never shown.
pub(super) const TRIES: u32 = 2;
/// Pause after a listing that failed.
const PAUSE: Duration = Duration::from_millis(200);
/// Pause before a watch that is behind is compared again.
const STEP: Duration = Duration::from_millis(10);

/// A watch of a kind that decisions rest on.
pub struct Followed {
    /// What every reconcile shares.
    pub context: Arc<Context>,
    /// Client of the watches.
    pub client: Client,
    /// What is watched.
    pub kind: Kind,
    /// Where; `None`: in all namespaces.
    pub namespace: Option<String>,
    /// Which of them.
    pub selector: Option<String>,
    /// Has the watch begin again, as in a process that has just started.
    pub begin_again: UnboundedSender<Missing>,
}

/// The versions of what is stored.
#[derive(Default)]
struct Listing {
    /// The moment of which it is.
    version: ResourceVersion,
    objects: HashMap<ObjectName, ResourceVersion>,
}

#[derive(Deserialize)]
struct Page {
    metadata: PageMetadata,
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: ResourceVersion,
    #[serde(rename = "continue")]
    continue_token: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    metadata: ItemMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemMetadata {
    namespace: String,
    name: String,
    resource_version: ResourceVersion,
}

/// Waits until each of these watches shows what is stored now. One that does not come to show it
/// begins again, and counts as missing until it has listed.
pub async fn catch_up(followed: &[Followed], readiness: &Readiness) {
    let permits = Semaphore::new(LISTINGS);
    let all = followed
        .iter()
        .map(|watch| watch.catch_up(&permits, readiness));
    join_all(all).await;
}

impl Followed {
    async fn catch_up(&self, permits: &Semaphore, readiness: &Readiness) {
        if self.shows_what_is_stored(permits).await {
            return;
        }
        tracing::warn!(
            kind = self.kind.name(),
            namespace = self.namespace.as_deref().unwrap_or("all"),
            "a watch does not show what is stored now that this process leads; it begins again with a listing"
        );
        // A watch that has ended ends the process.
        let _ = self.begin_again.send(readiness.missing(self.kind.name()));
    }

    async fn shows_what_is_stored(&self, permits: &Semaphore) -> bool {
        for _ in 0..TRIES {
            // It is never closed. The wait for it is no fault of this listing.
            let permit = permits.acquire().await;
            let listed = timeout(LISTED_WITHIN, self.list()).await;
            drop(permit);
            match listed.unwrap_or_else(|late| Err(kube::Error::Service(late.into()))) {
                Ok(listing) => {
                    if self.comes_to_show(&listing).await {
                        return true;
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        kind = self.kind.name(),
                        namespace = self.namespace.as_deref().unwrap_or("all"),
                        error = plain(&error),
                        "what is stored cannot be compared with what a watch shows"
                    );
                    sleep(PAUSE).await;
                }
            }
        }
        false
    }

    /// The versions of what is stored at this moment, and not in a cache of the API server.
    async fn list(&self) -> Result<Listing, kube::Error> {
        let path = DynamicObject::url_path(&resource(self.kind), self.namespace.as_deref());
        let request = Request::new(path);
        let mut listing = Listing::default();
        let mut continue_token = None;
        loop {
            let page = self.page(&request, continue_token).await?;
            for Item { metadata } in page.items.unwrap_or_default() {
                let name = ObjectName::new(metadata.namespace, metadata.name);
                listing.objects.insert(name, metadata.resource_version);
            }
            // The same on each page.
            listing.version = page.metadata.resource_version;
            continue_token = page
                .metadata
                .continue_token
                .filter(|token| !token.is_empty());
            if continue_token.is_none() {
                return Ok(listing);
            }
        }
    }

    async fn page(
        &self,
        request: &Request,
        continue_token: Option<String>,
    ) -> Result<Page, kube::Error> {
        let parameters = ListParams {
            label_selector: self.selector.clone(),
            limit: Some(PAGE),
            continue_token,
            ..ListParams::default()
        };
        let request = request
            .list_metadata(&parameters)
            .map_err(kube::Error::BuildRequest)?;
        let answer = self.client.request_stream(request).await?;
        let mut answer = pin!(answer.take(LONGEST_PAGE));
        let mut page = Vec::new();
        let read = answer.read_to_end(&mut page).await;
        read.map_err(kube::Error::ReadEvents)?;
        serde_json::from_slice(&page).map_err(kube::Error::SerdeError)
    }

    /// Whether the watch shows within a moment all of what was listed, or what came later.
    async fn comes_to_show(&self, listing: &Listing) -> bool {
        let caches = &self.context.sources.caches;
        let begun = Instant::now();
        let shown = caches.names(self.kind, self.namespace.as_deref());
        let listed = listing.objects.keys().cloned();
        let mut behind: HashSet<ObjectName> = listed.chain(shown).collect();
        loop {
            behind.retain(|name| !self.shows(name, listing));
            if behind.is_empty() {
                return true;
            }
            if begun.elapsed() >= CATCH_UP {
                return false;
            }
            sleep(STEP).await;
        }
    }

    fn shows(&self, name: &ObjectName, listing: &Listing) -> bool {
        let shown = self.context.sources.caches.version(self.kind, name);
        match (shown, listing.objects.get(name)) {
            (Some(shown), Some(listed)) => shown.is_at_least(listed),
            // It was made later, or it is gone.
            (Some(shown), None) => shown.is_at_least(&listing.version),
            // Not yet; or never, where it cannot be read: its watch begins again each time.
            (None, Some(_)) => false,
            (None, None) => true,
        }
    }
}
