//! A network namespace for each member, and a router between them: the namespace in which this command is.
//!
//! Every member has a link of its own into the middle. To cut what goes from one to another the middle drops, in silence, what comes in by the
//! sender's link for the receiver's address: one direction, one pair. Whether it does is seen by datagrams that are sent from
//! inside the one namespace and awaited inside the other.
//!
//! Sources: ip-rule(8), the action `blackhole`; a forwarded packet that a rule sends there vanishes without an answer.

use super::super::{Link, Member, Passage};
use super::datagrams::{self, PROBE_PORT};
use super::enclosure::command;
use super::members::Address;
use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, BTreeSet};

const ETCD_PORT: u16 = 2379;
const ETCD_PEERS_PORT: u16 = 2380;
const SERVICE_PORT: u16 = 7400;
const METRICS_PORT: u16 = 7500;
/// Of all rules that cut.
const PREFERENCE: &str = "100";

/// The network.
pub(super) struct Namespaces {
    /// The number of each member's network.
    numbers: BTreeMap<Member, u8>,
    cut: BTreeSet<Link>,
}

impl Namespaces {
    /// Makes it.
    pub(super) async fn make(members: &[Member]) -> Result<Self> {
        let mut made = Self {
            numbers: BTreeMap::new(),
            cut: BTreeSet::new(),
        };
        let all = async {
            for (number, member) in (1_u8..=250).zip(members) {
                made.numbers.insert(*member, number);
                made.add(*member, number).await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        if let Err(error) = all.await {
            // What was made so far would be in the way of the next cluster; why it was not all is what matters.
            let _ = made.remove().await;
            return Err(error);
        }
        if made.numbers.len() < members.len() {
            made.remove().await?;
            bail!("at most 250 members fit into one network");
        }
        Ok(made)
    }

    async fn add(&self, member: Member, number: u8) -> Result<()> {
        let name = member.to_string();
        let outside = outside(number);
        let (near, far) = (format!("10.77.{number}.1/30"), format!("10.77.{number}.2/30"));
        let gateway = format!("10.77.{number}.1");
        command("ip", &["netns", "add", &name]).await?;
        let pair = [
            "link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &name,
        ];
        command("ip", &pair).await?;
        command("ip", &["address", "add", &near, "dev", &outside]).await?;
        command("ip", &["link", "set", &outside, "up"]).await?;
        command("ip", &["-n", &name, "link", "set", "lo", "up"]).await?;
        command("ip", &["-n", &name, "link", "set", "eth0", "up"]).await?;
        command("ip", &["-n", &name, "address", "add", &far, "dev", "eth0"]).await?;
        command("ip", &["-n", &name, "route", "add", "default", "via", &gateway]).await
    }

    /// Removes it.
    pub(super) async fn remove(&mut self) -> Result<()> {
        for link in std::mem::take(&mut self.cut) {
            self.rule("del", link).await?;
        }
        let mut ended = Ok(());
        for (member, number) in std::mem::take(&mut self.numbers) {
            // The link first: with its namespace it would go by itself, but only some time later.
            let link = command("ip", &["link", "delete", &outside(number)]).await;
            let name = command("ip", &["netns", "delete", &member.to_string()]).await;
            ended = ended.and(link).and(name);
        }
        ended
    }

    fn host(&self, member: Member) -> String {
        let number = self.numbers.get(&member).copied().unwrap_or_default();
        format!("10.77.{number}.2")
    }

    pub(super) fn address(&self, member: Member) -> Address {
        let host = self.host(member);
        let (serves, probed) = match member {
            Member::Etcd => (ETCD_PORT, ETCD_PORT),
            _ => (SERVICE_PORT, METRICS_PORT),
        };
        Address {
            listens: format!("{host}:{serves}"),
            serves: format!("{host}:{serves}"),
            probed: format!("{host}:{probed}"),
            etcd: format!("http://{}:{ETCD_PORT}", self.host(Member::Etcd)),
            peers: format!("{host}:{ETCD_PEERS_PORT}"),
        }
    }

    /// What puts a command into a member's namespace. It stays one process.
    pub(super) fn wrap(&self, member: Member) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{member}")]
    }

    pub(super) async fn cut(&mut self, link: Link) -> Result<()> {
        if self.cut.contains(&link) {
            return Ok(());
        }
        self.rule("add", link).await?;
        self.cut.insert(link);
        Ok(())
    }

    pub(super) async fn mend(&mut self, link: Link) -> Result<()> {
        if !self.cut.contains(&link) {
            return Ok(());
        }
        self.rule("del", link).await?;
        self.cut.remove(&link);
        Ok(())
    }

    async fn rule(&self, what: &str, link: Link) -> Result<()> {
        let number = self.numbers.get(&link.from);
        let by = outside(*number.with_context(|| format!("there is no {}", link.from))?);
        let to = self.host(link.to);
        let rule = [
            "rule",
            what,
            "preference",
            PREFERENCE,
            "iif",
            &by,
            "to",
            &to,
            "blackhole",
        ];
        command("ip", &rule).await
    }

    /// Sends datagrams from inside the one namespace and awaits them inside the other.
    pub(super) async fn passage(&mut self, link: Link) -> Result<Passage> {
        let at = format!("{}:{PROBE_PORT}", self.host(link.to));
        datagrams::passage(&self.wrap(link.from), &self.wrap(link.to), &at).await
    }

    pub(super) fn cuts(&self) -> Vec<Link> {
        self.cut.iter().copied().collect()
    }
}

fn outside(number: u8) -> String {
    format!("to-{number}")
}
