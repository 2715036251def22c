//! Links between machines: cut by a filter in the receiver's own network, and seen by what gets through.
//!
//! The receiver's machine drops, in silence, what comes from the sender's address: one direction, one pair, established connections, too. The rules
//! are in the network of a container and nowhere in that of this system: they go with it, whatever happens to this command.
//!
//! A link is seen to be closed if no datagram gets through *and* no connection can be made, and open if a datagram does: a connection needs the way
//! back as well, so it cannot tell which direction of a pair is cut.
//!
//! Sources: iptables(8), namespaces(7).

use super::super::process::datagrams::{self, PROBE_PORT};
use super::super::{Link, Member, Passage};
use super::engine::call;
use super::{SERVICE_PORT, on_path};
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;

/// By which rules of this tool are known.
const MARK: &str = "fulcrum-chaos";

/// Where a machine is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// In the cluster's network.
    pub(super) address: String,
    /// The process that holds its network.
    pub(super) pid: u32,
}

/// The network of a cluster.
#[derive(Debug, Default)]
pub(super) struct Network {
    places: BTreeMap<Member, Place>,
}

/// Whether links can be cut here; else why not.
pub(super) fn can_cut() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("links of containers are cut in their network namespaces, which needs root".to_owned());
    }
    match ["nsenter", "iptables"].into_iter().find(|program| !on_path(program)) {
        Some(missing) => Err(format!(
            "links of containers are cut by nsenter and iptables: there is no {missing}"
        )),
        None => Ok(()),
    }
}

impl Network {
    pub(super) fn add(&mut self, member: Member, place: Place) {
        self.places.insert(member, place);
    }

    pub(super) fn host(&self, member: Member) -> Result<&str> {
        self.place(member).map(|place| place.address.as_str())
    }

    fn place(&self, member: Member) -> Result<&Place> {
        self.places
            .get(&member)
            .with_context(|| format!("{member} has no machine"))
    }

    /// What puts a command into a machine's network.
    fn wrap(&self, member: Member) -> Result<Vec<String>> {
        let pid = self.place(member)?.pid;
        Ok(vec!["nsenter".to_owned(), format!("--net=/proc/{pid}/ns/net")])
    }

    async fn iptables(&self, member: Member, words: &[&str]) -> Result<String> {
        let wrapped = self.wrap(member)?;
        let before: Vec<&str> = wrapped[1..].iter().map(String::as_str).collect();
        let words = [&before[..], &["iptables", "--wait"], words].concat();
        Ok(call(&wrapped[0], &words).await?)
    }

    async fn rule(&self, what: &str, link: Link) -> Result<()> {
        let from = self.host(link.from)?;
        let rule = [
            what,
            "INPUT",
            "--source",
            from,
            "--match",
            "comment",
            "--comment",
            MARK,
            "--jump",
            "DROP",
        ];
        self.iptables(link.to, &rule).await.map(drop)
    }

    /// The links into a member that are cut now, as its own filter says.
    async fn cuts_into(&self, to: Member) -> Result<Vec<Link>> {
        let rules = self.iptables(to, &["--list-rules", "INPUT"]).await?;
        Ok(sources(&rules)
            .filter_map(|source| {
                let from = self.places.iter().find(|(_, place)| place.address == source);
                from.map(|(from, _)| Link { from: *from, to })
            })
            .collect())
    }

    /// All links that are cut now.
    pub(super) async fn cuts(&self) -> Result<Vec<Link>> {
        let mut cuts = Vec::new();
        for to in self.places.keys() {
            cuts.extend(self.cuts_into(*to).await?);
        }
        Ok(cuts)
    }

    pub(super) async fn cut(&self, link: Link) -> Result<()> {
        match self.cuts_into(link.to).await?.contains(&link) {
            true => Ok(()),
            false => self.rule("--insert", link).await,
        }
    }

    pub(super) async fn mend(&self, link: Link) -> Result<()> {
        let cut = self.cuts_into(link.to).await?;
        for link in cut.into_iter().filter(|cut| *cut == link) {
            self.rule("--delete", link).await?;
        }
        Ok(())
    }

    pub(super) async fn passage(&self, link: Link) -> Result<Passage> {
        let (from, to) = (self.wrap(link.from)?, self.wrap(link.to)?);
        let host = self.host(link.to)?;
        let heard = datagrams::passage(&from, &to, &format!("{host}:{PROBE_PORT}")).await;
        let heard = heard.with_context(|| format!("look at {link}"))?;
        if heard == Passage::Open {
            return Ok(Passage::Open);
        }
        match datagrams::reaches(&from, &format!("{host}:{SERVICE_PORT}")).await? {
            true => bail!("{link}: datagrams do not get through, and connections do"),
            false => Ok(Passage::Closed),
        }
    }
}

/// The senders that rules of this tool drop.
fn sources(rules: &str) -> impl Iterator<Item = &str> {
    let ours = rules
        .lines()
        .filter(|rule| rule.contains(MARK) && rule.ends_with("-j DROP"));
    ours.filter_map(|rule| {
        let source = rule.split_once(" -s ")?.1;
        let source = source.split(' ').next()?;
        Some(source.strip_suffix("/32").unwrap_or(source))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_of_this_tool_count_as_cuts() {
        let rules = "-P INPUT ACCEPT\n\
                     -A INPUT -s 172.18.0.4/32 -m comment --comment fulcrum-chaos -j DROP\n\
                     -A INPUT -s 172.18.0.5/32 -j DROP\n\
                     -A INPUT -s 172.18.0.6/32 -m comment --comment fulcrum-chaos -j ACCEPT\n";
        assert_eq!(sources(rules).collect::<Vec<_>>(), ["172.18.0.4"]);
        assert_eq!(sources("-P INPUT ACCEPT\n").count(), 0);
    }
}
