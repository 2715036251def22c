//! Backups at the router's door: a cut through all groups, and what each of them held there.
//!
//! The cut is made by the pure core in `fulcrum_two_phase::cut`; here its questions are asked. Nothing of a cut is kept: its client brings
//! it back with every call, and any router goes on with it. A cut that nobody waits for any more when it is made is let go of here; one whose
//! answer got lost later its client ends by the name that it gave it. Where the cut has a group's state and the decisions of others apart, both
//! are put together here, so that clients see keys with their values.

use crate::admin::{invalid, store_error};
use crate::order::unknown_keyspace;
use crate::service::unexpected;
use fulcrum_common::ClusterMap;
use fulcrum_common::audit::{Asked, Audit};
use fulcrum_common::auth::Verb;
use fulcrum_common::entropy::random_u64;
use fulcrum_common::limits::MAX_TRANSACTION_KEYS;
use fulcrum_common::metadata::ClusterStore;
use fulcrum_common::routing::{Groups, RoutingTable};
use fulcrum_common::wire::backup::{cut_from_wire, points_to_wire};
use fulcrum_common::wire::{Malformed, map, status, v1};
use fulcrum_two_phase::cut::{Asks, Cutting, NotCut, Unsettled, Verdicts};
use fulcrum_types::{
    Answer, Cut, CutAnswer, CutId, CutOperation, CutPage, CutPoint, CutStep, GroupId, Operation, Participant, Refusal,
};
use futures::future::try_join_all;
use futures::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// How long a group is held at most: transactions wait for it.
const HOLD: Duration = Duration::from_secs(2);
/// For a group to answer while others are held.
const STEP_WITHIN: Duration = Duration::from_millis(1_500);
/// For a group to answer when nobody is held.
const READ_WITHIN: Duration = Duration::from_secs(10);
const PAGE_BYTES: u32 = 256 * 1024;
const PAGES_AHEAD: usize = 2;
/// A replica that has not got as far as the cut yet says that it has no such state: others are asked.
const ROUNDS: u32 = 4;
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// The `Backup` service.
#[derive(Clone)]
pub(crate) struct BackupService {
    pub(crate) groups: Arc<dyn Groups>,
    pub(crate) table: Arc<RoutingTable>,
    pub(crate) store: ClusterStore,
    pub(crate) audit: Audit,
}

type Pages = mpsc::Sender<Result<v1::CutPage, Status>>;

fn refused(refusal: Refusal) -> Status {
    status::refusal_to_status(&refusal)
}

fn malformed(malformed: Malformed) -> Status {
    refused(malformed.into())
}

async fn ask(groups: &dyn Groups, at: Participant, cut: CutOperation, within: Duration) -> Result<CutAnswer, Refusal> {
    match groups.ask(at, Operation::Cut(cut), within).await?.answer {
        Answer::Cut(answer) => Ok(answer),
        other => Err(unexpected(&other)),
    }
}

/// Asks for a cut until it is made or is not.
async fn make(groups: &Arc<dyn Groups>, id: CutId, through: BTreeSet<Participant>) -> Result<Cut, NotCut> {
    let (mut cutting, asks) = Cutting::new(id, HOLD, through);
    let mut under_way = FuturesUnordered::new();
    let begin = |(at, cut): (Participant, CutOperation)| async move {
        let answer = ask(&**groups, at, cut, STEP_WITHIN).await;
        (at, answer)
    };
    under_way.extend(asks.into_iter().map(begin));
    while let Some((at, answer)) = under_way.next().await {
        let progress = cutting.answered(at, answer);
        match progress.ended {
            None => under_way.extend(progress.asks.into_iter().map(begin)),
            Some(ended) => {
                tell(groups, progress.asks);
                return ended;
            }
        }
    }
    Ok(Cut::default())
}

/// Tells groups what nobody waits for. Where it gets lost time does the same.
fn tell(groups: &Arc<dyn Groups>, asks: Asks) {
    for (at, cut) in asks {
        let told = Box::new(|_| {});
        groups.clone().submit(at, Operation::Cut(cut), STEP_WITHIN, told);
    }
}

fn all_of(cut: &Cut, step: CutStep) -> Asks {
    let ask = |at: &Participant| (*at, CutOperation::Step(step));
    cut.points.keys().map(ask).collect()
}

/// A group that takes no further cut says itself who must act; for all else another try may do.
fn why_not(why: NotCut) -> Status {
    match why {
        NotCut::Refused {
            refusal: refusal @ Refusal::TooManyCuts { .. },
            ..
        } => refused(refusal),
        why => not_cut(why.to_string()),
    }
}

fn not_cut(reason: String) -> Status {
    refused(Refusal::Unreachable { reason })
}

/// The groups that a cut goes through: those of the keyspaces wanted, and all that take part in transactions.
fn through(map: &ClusterMap, wanted: &BTreeSet<String>) -> BTreeSet<Participant> {
    let named = map
        .keyspaces()
        .values()
        .filter(|keyspace| wanted.contains(&keyspace.name));
    let groups = named.flat_map(|keyspace| map.participants_of(keyspace.id));
    groups.chain(map.transactional_groups()).collect()
}

/// The keyspaces that were asked for: those named, or all.
fn wanted(map: &ClusterMap, named: &[String]) -> Result<BTreeSet<String>, Status> {
    if let Some(name) = named.iter().find(|name| map.keyspace_by_name(name).is_none()) {
        return Err(refused(unknown_keyspace(name)));
    }
    let all = map.keyspaces().values().map(|keyspace| &keyspace.name);
    Ok(if named.is_empty() {
        all.cloned().collect()
    } else {
        named.iter().cloned().collect()
    })
}

/// Reads one group of a cut.
struct Reading {
    groups: Arc<dyn Groups>,
    cut: Cut,
    at: Participant,
    point: CutPoint,
}

impl Reading {
    async fn run(self, mut start: bytes::Bytes, pages: Pages) {
        loop {
            let page = self.page(start).await.map_err(refused);
            let next = page.as_ref().ok().and_then(|page| page.next.clone());
            if pages.send(page).await.is_err() {
                return;
            }
            match next {
                Some(next) => start = next,
                None => return,
            }
        }
    }

    async fn page(&self, start: bytes::Bytes) -> Result<v1::CutPage, Refusal> {
        let read = CutOperation::Read {
            id: self.cut.id,
            at: self.point.position,
            start,
            max_bytes: PAGE_BYTES,
        };
        let mut page = match self.ask(self.at, read).await? {
            CutAnswer::Page(page) => page,
            _ => return Err(astray()),
        };
        let next = page.next.take();
        let rows = self
            .settle(page)
            .await?
            .into_iter()
            .map(|(key, value)| v1::cut_page::Row {
                key,
                value: Some(value.into()),
            });
        Ok(v1::CutPage {
            rows: rows.collect(),
            next,
        })
    }

    /// What was committed by the cut, and nothing else.
    async fn settle(&self, page: CutPage) -> Result<Vec<(bytes::Bytes, fulcrum_types::Versioned)>, Refusal> {
        let mut verdicts = Verdicts::default();
        let missing = verdicts.missing(&self.cut, &page, MAX_TRANSACTION_KEYS);
        for (home, look_up) in missing.map_err(|why| self.useless(&why))? {
            let CutOperation::LookUp { transactions, .. } = &look_up else {
                continue;
            };
            let ids = transactions.clone();
            match self.ask(home, look_up).await? {
                CutAnswer::Verdicts(told) => verdicts.learn(&ids, &told),
                _ => return Err(astray()),
            }
        }
        verdicts.settle(page).map_err(|why| self.useless(&why))
    }

    fn useless(&self, why: &Unsettled) -> Refusal {
        tracing::warn!(cut = %self.cut.id, group = %self.at.group, %why, "a cut cannot be read to its end");
        Refusal::CutGone { group: self.at.group }
    }

    async fn ask(&self, at: Participant, cut: CutOperation) -> Result<CutAnswer, Refusal> {
        let mut round = 1;
        loop {
            match ask(&*self.groups, at, cut.clone(), READ_WITHIN).await {
                Err(Refusal::CutGone { .. }) if round < ROUNDS => tokio::time::sleep(ROUND_PAUSE * round).await,
                answer => return answer,
            }
            round += 1;
        }
    }
}

/// What a client brings back of a cut.
fn cut_of(wire: Option<v1::Cut>) -> Result<Cut, Status> {
    let wire = wire.ok_or_else(|| malformed(Malformed::missing("cut")))?;
    cut_from_wire(&wire).map_err(malformed)
}

fn astray() -> Refusal {
    Refusal::Unknown {
        reason: "the shard-node answered with another step of a cut than was asked".into(),
    }
}

#[tonic::async_trait]
impl v1::backup_server::Backup for BackupService {
    async fn begin(&self, request: Request<v1::BeginCutRequest>) -> Result<Response<v1::Cut>, Status> {
        let arguments = json!({"keyspaces": request.get_ref().keyspaces});
        let asked = Asked::by(&request, Verb::BeginBackup, arguments)?;
        let permitted = asked.permitted(None);
        let work = self.cut(request.into_inner());
        self.audit.perform(asked, permitted, work).await
    }

    type ReadStream = ReceiverStream<Result<v1::CutPage, Status>>;

    async fn read(&self, request: Request<v1::ReadCutRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let wanted = request.get_ref();
        let arguments = json!({"cut": wanted.cut.as_ref().map(|cut| cut.id), "group": wanted.group});
        let asked = Asked::by(&request, Verb::ReadBackup, arguments)?;
        let permitted = asked.permitted(None);
        let work = async { self.pages(request.into_inner()) };
        self.audit.perform(asked, permitted, work).await
    }

    async fn keep(&self, request: Request<v1::KeepCutRequest>) -> Result<Response<v1::KeepCutResponse>, Status> {
        let arguments = json!({"cut": request.get_ref().cut.as_ref().map(|cut| cut.id)});
        let asked = Asked::by(&request, Verb::KeepBackup, arguments)?;
        let permitted = asked.permitted(None);
        let work = async {
            let cut = cut_of(request.into_inner().cut)?;
            let told = all_of(&cut, CutStep::Keep { id: cut.id })
                .into_iter()
                .map(|(at, keep)| ask(&*self.groups, at, keep, READ_WITHIN));
            try_join_all(told).await.map_err(refused)?;
            Ok(Response::new(v1::KeepCutResponse {}))
        };
        self.audit.perform(asked, permitted, work).await
    }

    async fn end(&self, request: Request<v1::EndCutRequest>) -> Result<Response<v1::EndCutResponse>, Status> {
        let arguments = json!({"cut": request.get_ref().cut.as_ref().map(|cut| cut.id)});
        let asked = Asked::by(&request, Verb::EndBackup, arguments)?;
        let permitted = asked.permitted(None);
        let work = async {
            let mut cut = cut_of(request.into_inner().cut)?;
            if cut.points.is_empty() {
                // All that its client knows is its name.
                let map = self.newest_map().await?;
                let all = through(&map, &wanted(&map, &[])?);
                cut.points = all.into_iter().map(|at| (at, CutPoint::default())).collect();
            }
            self.let_go(&cut);
            Ok(Response::new(v1::EndCutResponse {}))
        };
        self.audit.perform(asked, permitted, work).await
    }
}

impl BackupService {
    /// The map as the metadata store has it: the one that is routed by may be older, and lack a keyspace.
    async fn newest_map(&self) -> Result<Arc<ClusterMap>, Status> {
        let loaded = tokio::time::timeout(READ_WITHIN, self.store.load_map()).await;
        let late = |_| not_cut("the metadata store did not say in time which keyspaces there are".into());
        loaded.map_err(late)?.map_err(store_error)
    }

    async fn cut(&self, request: v1::BeginCutRequest) -> Result<Response<v1::Cut>, Status> {
        let map = self.newest_map().await?;
        let until = Instant::now() + READ_WITHIN;
        self.table.catch_up(map.version(), until).await.map_err(refused)?;
        let named = request.keyspaces;
        let wanted = wanted(&map, &named)?;
        let through = through(&map, &wanted);
        if through.is_empty() {
            return Err(invalid("there is no keyspace to back up: see `fulcrum keyspace list`"));
        }
        let id = match request.id {
            0 => CutId(random_u64()),
            drawn => CutId(drawn),
        };
        let (told, made) = oneshot::channel();
        // To its end even if the client goes away: groups are not to be held for longer than it takes.
        tokio::spawn(self.clone().make(id, named, through, told));
        let gone = |_| Status::internal("the cut was lost: begin the backup again");
        let cut = made.await.map_err(gone)??;
        let keyspaces = wanted.iter().filter_map(|name| map.keyspace_by_name(name));
        let keyspaces = keyspaces.map(|keyspace| map::keyspace_to_wire(keyspace, map.groups_of(keyspace.id)));
        Ok(Response::new(v1::Cut {
            id: cut.id.0,
            cluster_id: map.cluster_id().to_string(),
            map_version: map.version().0,
            keyspaces: keyspaces.collect(),
            groups: points_to_wire(&cut),
        }))
    }

    /// Makes it, and lets go of it if nobody waits for it any more.
    async fn make(
        self,
        id: CutId,
        named: Vec<String>,
        through: BTreeSet<Participant>,
        told: oneshot::Sender<Result<Cut, Status>>,
    ) {
        let made = make(&self.groups, id, through.clone()).await.map_err(why_not);
        let made = match made {
            Ok(cut) => match self.is_whole(&named, &through).await {
                Ok(()) => Ok(cut),
                Err(why) => {
                    self.let_go(&cut);
                    Err(why)
                }
            },
            not_made => not_made,
        };
        if let Err(Ok(cut)) = told.send(made) {
            tracing::info!(cut = %cut.id, "nobody waits for the cut any more: it is let go of");
            self.let_go(&cut);
        }
    }

    fn let_go(&self, cut: &Cut) {
        tell(&self.groups, all_of(cut, CutStep::End { id: cut.id }));
    }

    /// Whether the cut went through all groups that there were at its moment: a transaction may have reached into a keyspace that
    /// came up meanwhile, and would be in it in part.
    async fn is_whole(&self, named: &[String], cut: &BTreeSet<Participant>) -> Result<(), Status> {
        let map = self.newest_map().await?;
        if through(&map, &wanted(&map, named)?) == *cut {
            return Ok(());
        }
        Err(not_cut(
            "keyspaces were created or dropped while the cut was made".into(),
        ))
    }

    fn pages(
        &self,
        request: v1::ReadCutRequest,
    ) -> Result<Response<ReceiverStream<Result<v1::CutPage, Status>>>, Status> {
        let cut = cut_of(request.cut)?;
        let group = GroupId(request.group);
        let found = cut.points.iter().find(|(at, _)| at.group == group);
        let (at, point) = found.ok_or_else(|| invalid(format!("the cut does not go through group {group}")))?;
        let reading = Reading {
            groups: self.groups.clone(),
            at: *at,
            point: *point,
            cut,
        };
        let (pages, stream) = mpsc::channel(PAGES_AHEAD);
        tokio::spawn(reading.run(request.start, pages));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::audit::AuditConfig;
    use fulcrum_common::map::ClusterId;
    use fulcrum_common::{EmbeddedMetadata, KeyspaceOptions, NodeInfo, SystemClock};
    use fulcrum_types::{Answered, Epoch, Index, Level, MapVersion, Mode, NodeId, Receipt, Role, StalenessBasis};
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Groups that are held whenever that is asked; and somebody who makes a keyspace meanwhile.
    struct Held {
        store: ClusterStore,
        makes: Mutex<Option<&'static str>>,
        asked: Mutex<Vec<(GroupId, CutOperation)>>,
        slow: AtomicBool,
        refuses: Mutex<Option<Refusal>>,
    }

    #[async_trait::async_trait]
    impl Groups for Held {
        async fn ask(&self, to: Participant, operation: Operation, _: Duration) -> Result<Answered, Refusal> {
            let Operation::Cut(cut) = operation else {
                panic!("{operation:?} is no step of a cut");
            };
            self.asked.lock().unwrap().push((to.group, cut.clone()));
            let name = self.makes.lock().unwrap().take();
            if let Some(name) = name {
                create(&self.store, name).await;
            }
            if self.slow.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if let Some(refusal) = self.refuses.lock().unwrap().clone() {
                return Err(refusal);
            }
            let answer = match cut {
                CutOperation::Step(CutStep::End { .. }) => CutAnswer::Done,
                _ => CutAnswer::Held(CutPoint::default()),
            };
            Ok(Answered {
                answer: Answer::Cut(answer),
                receipt: receipt(to.group),
            })
        }
    }

    fn receipt(group: GroupId) -> Receipt {
        Receipt {
            mode: Mode::Sync,
            asked: Level::Linearizable,
            achieved: Level::Linearizable,
            group,
            replica: NodeId(1),
            role: Role::Primary,
            epoch: Epoch(1),
            index: Index(1),
            acknowledged_by: Vec::new(),
            durable: true,
            staleness: None,
            basis: StalenessBasis::None,
            map_version: MapVersion(1),
            rounds: 0,
            elapsed: Duration::ZERO,
        }
    }

    async fn create(store: &ClusterStore, name: &str) {
        let options = KeyspaceOptions {
            groups: 2,
            ..KeyspaceOptions::of(Mode::Sync, 1)
        };
        store.create_keyspace(name, options).await.unwrap();
    }

    /// A cluster with one keyspace, and a router that knows it.
    async fn service(makes: Option<&'static str>) -> (BackupService, Arc<Held>) {
        let id = ClusterId::new("test").unwrap();
        let metadata = EmbeddedMetadata::in_memory(id.clone(), Arc::new(SystemClock));
        let store = ClusterStore::open(Arc::new(metadata), id).await.unwrap();
        let address = "127.0.0.1:1".into();
        let node = NodeInfo { address, zone: None };
        store
            .register_node(NodeId(1), node, Duration::from_secs(60))
            .await
            .unwrap();
        create(&store, "orders").await;
        let groups = Arc::new(Held {
            store: store.clone(),
            makes: Mutex::new(makes),
            asked: Mutex::default(),
            slow: AtomicBool::new(false),
            refuses: Mutex::default(),
        });
        let service = BackupService {
            groups: groups.clone(),
            table: Arc::new(RoutingTable::new(store.load_map().await.unwrap())),
            store,
            audit: Audit::open(&AuditConfig::default(), Arc::new(SystemClock)).unwrap(),
        };
        (service, groups)
    }

    #[tokio::test]
    async fn a_keyspace_that_the_router_has_not_heard_of_is_in_the_cut() {
        let (service, _) = service(None).await;
        create(&service.store, "stock").await;
        let newest = service.store.load_map().await.unwrap();
        let table = service.table.clone();
        // It hears of it a moment later.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            table.set_map(newest);
        });
        let cut = service.cut(v1::BeginCutRequest::default()).await.unwrap().into_inner();
        assert_eq!((cut.keyspaces.len(), cut.groups.len()), (2, 4), "{cut:?}");
    }

    #[tokio::test]
    async fn a_cut_is_none_if_a_keyspace_came_up_while_it_was_made() {
        let (service, groups) = service(Some("stock")).await;
        let refused = service.cut(v1::BeginCutRequest::default()).await.unwrap_err();
        assert!(refused.message().contains("were created"), "{refused:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(ended(&groups).len(), 2, "all are told that nobody will read it");
    }

    /// What is not wanted any more, where it was said.
    fn ended(groups: &Held) -> Vec<CutId> {
        let asked = groups.asked.lock().unwrap();
        let ended = asked.iter().filter_map(|(_, cut)| match cut {
            CutOperation::Step(CutStep::End { id }) => Some(*id),
            _ => None,
        });
        ended.collect()
    }

    #[tokio::test]
    async fn a_cut_that_nobody_waits_for_any_more_is_let_go_of() {
        let (service, groups) = service(None).await;
        groups.slow.store(true, Ordering::Relaxed);
        let wanted = v1::BeginCutRequest {
            id: 77,
            ..v1::BeginCutRequest::default()
        };
        let begun = tokio::time::timeout(Duration::from_millis(20), service.cut(wanted)).await;
        assert!(begun.is_err(), "its client goes away meanwhile");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(ended(&groups), [CutId(77), CutId(77)]);
    }

    #[tokio::test]
    async fn a_cut_is_ended_by_its_name_alone() {
        use v1::backup_server::Backup;
        let (service, groups) = service(None).await;
        let lossy = KeyspaceOptions::of(Mode::Async, 1);
        service.store.create_keyspace("stock", lossy).await.unwrap();
        let mut request = Request::new(v1::EndCutRequest {
            cut: Some(v1::Cut {
                id: 78,
                ..v1::Cut::default()
            }),
        });
        request.extensions_mut().insert(fulcrum_common::auth::Caller::anyone());
        service.end(request).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let map = service.store.load_map().await.unwrap();
        let all = map
            .keyspaces()
            .keys()
            .map(|keyspace| map.participants_of(*keyspace).count())
            .sum::<usize>();
        assert_eq!(ended(&groups), vec![CutId(78); all], "in all groups there are");
    }

    #[tokio::test]
    async fn groups_that_take_no_further_cut_say_so_themselves() {
        let (service, groups) = service(None).await;
        *groups.refuses.lock().unwrap() = Some(Refusal::TooManyCuts {
            group: GroupId(1),
            most: 4,
        });
        let refused = service.cut(v1::BeginCutRequest::default()).await.unwrap_err();
        let refusal = status::refusal_from_status(&refused);
        assert!(matches!(refusal, Refusal::TooManyCuts { most: 4, .. }), "{refusal:?}");
    }
}
