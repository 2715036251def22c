//! Cuts: one moment through all groups of a cluster, read group by group. What backups are made of.
//!
//! A cut is made once and read for as long as its replicas keep it: a minute after the last [`Cut::keep`]. Its pages can be read through
//! any router and be taken up again at any key; a stream that breaks is.

use crate::admin::{KeyspaceInfo, keyspace};
use crate::client::Client;
use crate::error::Error;
use crate::pages::Pages;
use crate::retry::Retries;
use crate::rpc;
use crate::scan::Row;
use bytes::Bytes;
use fulcrum_common::entropy::random_u64;
use fulcrum_common::wire::{Malformed, v1};
use fulcrum_types::{CutId, GroupId, KeyspaceId, LogPosition, MapVersion};

/// A cut through all groups, with no transaction on both sides of it. From [`Client::cut`].
#[derive(Clone)]
pub struct Cut {
    client: Client,
    wire: v1::Cut,
    /// Which cluster.
    pub cluster_id: String,
    /// The cluster map by which it was made.
    pub map_version: MapVersion,
    /// The keyspaces asked for.
    pub keyspaces: Vec<KeyspaceInfo>,
    /// Their groups.
    pub groups: Vec<CutGroup>,
}

/// Where a cut goes through one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutGroup {
    /// Its keyspace.
    pub keyspace: KeyspaceId,
    /// The group.
    pub group: GroupId,
    /// The state is that of all entries up to this one.
    pub position: LogPosition,
    /// Replicated time of that entry, milliseconds since the Unix epoch.
    pub time_ms: u64,
}

impl Client {
    /// Cuts all groups of these keyspaces, or of all keyspaces if none is named, at one moment. Transactions wait meanwhile, for
    /// milliseconds as a rule.
    ///
    /// # Errors
    /// A group has no primary, or not for long enough: nothing is left of it, and another try may do. If the answer got lost
    /// ([`Refusal::Unknown`](fulcrum_types::Refusal::Unknown)) what is left of it goes within a minute.
    pub async fn cut(&self, keyspaces: &[String]) -> Result<Cut, Error> {
        self.cut_as(CutId(random_u64()), keyspaces).await
    }

    /// The same under a name that was drawn before, at random: whoever does not wait for the answer, or lost it, lets go of the cut by its
    /// name ([`Client::end_cut`]). A name is used once.
    ///
    /// # Errors
    /// As of [`Client::cut`].
    pub async fn cut_as(&self, name: CutId, keyspaces: &[String]) -> Result<Cut, Error> {
        let request = v1::BeginCutRequest {
            keyspaces: keyspaces.to_vec(),
            id: name.0,
        };
        // Each attempt holds all groups: how many there are is for who makes the backup to say.
        let shared = &self.shared;
        let made = shared.call_router(request, shared.until(None), Retries::once()).await;
        let wire = made.map_err(|verdict| verdict.error())?;
        Cut::new(self.clone(), wire)
    }

    /// Lets go of a cut whose answer never came. All groups are told.
    ///
    /// # Errors
    /// No router can be reached: what is left of it goes within a minute.
    pub async fn end_cut(&self, name: CutId) -> Result<(), Error> {
        let cut = Some(v1::Cut {
            id: name.0,
            ..v1::Cut::default()
        });
        self.admin().call(v1::EndCutRequest { cut }).await.map(drop)
    }
}

impl Cut {
    fn new(client: Client, wire: v1::Cut) -> Result<Self, Error> {
        let keyspaces: Vec<KeyspaceInfo> = wire.keyspaces.iter().cloned().map(keyspace).collect::<Result<_, _>>()?;
        let asked = |group: &&v1::cut::Group| keyspaces.iter().any(|keyspace| keyspace.id.0 == group.keyspace);
        let group = |group: &v1::cut::Group| {
            Ok(CutGroup {
                keyspace: KeyspaceId(group.keyspace),
                group: GroupId(group.id),
                position: group.at.ok_or_else(|| Malformed::missing("cut.group.at"))?.into(),
                time_ms: group.time_ms,
            })
        };
        let groups = wire.groups.iter().filter(asked).map(group);
        Ok(Self {
            groups: groups.collect::<Result<_, Malformed>>()?,
            cluster_id: wire.cluster_id.clone(),
            map_version: MapVersion(wire.map_version),
            keyspaces,
            client,
            wire,
        })
    }

    /// Its name, for messages and logs.
    #[must_use]
    pub fn name(&self) -> String {
        CutId(self.wire.id).to_string()
    }

    /// Reads one group from a key on, in key order.
    #[must_use]
    pub fn pages(&self, group: GroupId, start: Bytes) -> CutPages {
        CutPages {
            pages: Pages::new(self.client.shared.until(None)),
            cut: self.clone(),
            group,
            start: Some(start),
        }
    }

    /// Says that it is still being read: it is kept for another minute.
    ///
    /// # Errors
    /// A group cannot be reached.
    pub async fn keep(&self) -> Result<(), Error> {
        let cut = Some(self.wire.clone());
        self.client.admin().call(v1::KeepCutRequest { cut }).await.map(drop)
    }

    /// Lets go of it. What cannot be told so does by itself, a minute later.
    ///
    /// # Errors
    /// No router can be reached.
    pub async fn end(&self) -> Result<(), Error> {
        let cut = Some(self.wire.clone());
        self.client.admin().call(v1::EndCutRequest { cut }).await.map(drop)
    }
}

/// The pages of one group of a cut.
pub struct CutPages {
    cut: Cut,
    group: GroupId,
    /// Where the next page starts; none behind the last one.
    start: Option<Bytes>,
    pages: Pages<v1::CutPage>,
}

impl CutPages {
    /// The next rows; none behind the last ones. A page may be empty. The deadline bounds the wait for each page.
    ///
    /// # Errors
    /// No replica of the group has the state of the cut any more, or none can be reached.
    pub async fn next(&mut self) -> Result<Option<Vec<Row>>, Error> {
        let Some(start) = &self.start else {
            return Ok(None);
        };
        let shared = &self.cut.client.shared;
        self.pages.renew(shared.until(None));
        let open = |router, _| {
            let request = v1::ReadCutRequest {
                cut: Some(self.cut.wire.clone()),
                group: self.group.0,
                start: start.clone(),
            };
            async move { rpc::backup(router).read(request).await }
        };
        let page = self.pages.next(shared, open).await?;
        let rows = page.rows.into_iter().map(|row| Row::from_wire(row.key, row.value));
        let rows = rows.collect::<Result<_, Malformed>>()?;
        self.start = page.next;
        Ok(Some(rows))
    }
}
