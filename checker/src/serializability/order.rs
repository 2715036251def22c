//! The order of each key's appends: the longest list that was read, of which every other one is a beginning.
//!
//! What is wrong with the lists themselves is found here. A list with an element that cannot be there is taken without
//! it, so that the rest of the history can still be judged.

use super::anomaly::Anomaly;
use super::findings::Findings;
use super::views::Views;
use crate::transactions::{Element, List};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

/// The appends to one key in order. "Version m" is the list of the first m elements.
#[derive(Debug, Default)]
pub(super) struct Order<'a> {
    pub(super) elements: Cow<'a, [Element]>,
    /// Who appended each element.
    pub(super) writers: Vec<usize>,
    /// Reader and the version that it read.
    pub(super) reads: Vec<(usize, usize)>,
    /// Committed transactions with an append that no read has seen, and the first such. They come after every list that
    /// was read, in any order among themselves.
    pub(super) unobserved: Vec<(usize, Element)>,
}

/// What all committed transactions did to one key.
#[derive(Debug, Default)]
struct Uses<'a> {
    reads: Vec<(usize, &'a [Element])>,
    appends: Vec<(usize, &'a [Element])>,
}

/// The order of every key, by number.
pub(super) fn orders<'a>(views: &'a Views<'a>, findings: &mut Findings) -> Vec<Order<'a>> {
    let mut uses: Vec<Uses<'a>> = Vec::new();
    uses.resize_with(views.keys.len(), Uses::default);
    for (place, touches) in views.touches.iter().enumerate() {
        if !views.committed[place] {
            continue;
        }
        for touch in touches {
            if let Some(list) = touch.read {
                uses[touch.key].reads.push((place, list));
            }
            if !touch.appended.is_empty() {
                uses[touch.key].appends.push((place, &touch.appended));
            }
        }
    }
    let judge = |(key, uses): (usize, &Uses<'a>)| match views.ambiguous.contains(&key) {
        true => Order::default(),
        false => KeyJudge { key, views, findings }.order(uses),
    };
    uses.iter().enumerate().map(judge).collect()
}

struct KeyJudge<'a, 'f> {
    key: usize,
    views: &'a Views<'a>,
    findings: &'f mut Findings,
}

impl<'a> KeyJudge<'a, '_> {
    fn order(&mut self, uses: &Uses<'a>) -> Order<'a> {
        let lists = self.clean(&uses.reads);
        // The first of the longest: explanations name the earliest reader.
        let longest = lists.iter().rev().max_by_key(|(_, list)| list.len());
        let Some((witness, elements)) = longest.cloned() else {
            return Order {
                unobserved: uses.appends.iter().map(|(writer, own)| (*writer, own[0])).collect(),
                ..Order::default()
            };
        };
        let mut reads = Vec::with_capacity(lists.len());
        for (reader, list) in &lists {
            match elements.starts_with(list) {
                true => reads.push((*reader, list.len())),
                false => self.incompatible((witness, &elements), (*reader, list)),
            }
        }
        let writers: Vec<usize> = elements.iter().map(|e| self.views.writers[&(self.key, *e)]).collect();
        self.intermediate_reads(uses, &elements, &writers, &reads);
        let unobserved = self.judge_appends(uses, &elements);
        Order {
            elements,
            writers,
            reads,
            unobserved,
        }
    }

    /// The lists without what cannot be in them. If the longest is clean, so is every beginning of it.
    fn clean(&mut self, reads: &[(usize, &'a [Element])]) -> Vec<(usize, Cow<'a, [Element]>)> {
        let mut told = HashSet::new();
        let mut clean: &[Element] = &[];
        let longest = reads.iter().rev().max_by_key(|(_, list)| list.len());
        if let Some(&(reader, list)) = longest
            && self.without_impossible(reader, list, &mut told).len() == list.len()
        {
            clean = list;
        }
        let lists = reads.iter().map(|&(reader, list)| match clean.starts_with(list) {
            true => (reader, Cow::Borrowed(list)),
            false => (reader, self.without_impossible(reader, list, &mut told)),
        });
        lists.collect()
    }

    fn without_impossible(
        &mut self,
        reader: usize,
        list: &'a [Element],
        told: &mut HashSet<Element>,
    ) -> Cow<'a, [Element]> {
        let mut seen = HashSet::with_capacity(list.len());
        let mut possible = Vec::with_capacity(list.len());
        for &element in list {
            let wrong = match self.views.writers.get(&(self.key, element)) {
                None => Some((Anomaly::UnwrittenValue, None)),
                Some(&writer) if !self.views.committed[writer] => Some((Anomaly::AbortedRead, Some(writer))),
                Some(&writer) if !seen.insert(element) => Some((Anomaly::DuplicateAppend, Some(writer))),
                Some(_) => None,
            };
            match wrong {
                None => possible.push(element),
                Some((anomaly, writer)) if told.insert(element) => self.impossible(anomaly, element, reader, writer),
                Some(_) => {}
            }
        }
        match possible.len() == list.len() {
            true => Cow::Borrowed(list),
            false => Cow::Owned(possible),
        }
    }

    fn impossible(&mut self, anomaly: Anomaly, element: Element, reader: usize, writer: Option<usize>) {
        let why = match (anomaly, writer) {
            (Anomaly::AbortedRead, Some(writer)) => format!("#{reader} read {element} of #{writer}, which failed"),
            (Anomaly::DuplicateAppend, Some(writer)) => {
                format!("#{reader} read {element} twice; #{writer} appended it once")
            }
            _ => format!("#{reader} read {element}, which nobody appended"),
        };
        self.report(anomaly, [reader].into_iter().chain(writer).collect(), why);
    }

    fn incompatible(&mut self, longest: (usize, &[Element]), other: (usize, &[Element])) {
        let same = longest.1.iter().zip(other.1).take_while(|(a, b)| a == b).count();
        let why = format!(
            "#{} read {} where #{} read {}, after the same first {same}",
            other.0,
            List(&other.1[same..]),
            longest.0,
            List(&longest.1[same..]),
        );
        self.report(Anomaly::IncompatibleOrders, vec![other.0, longest.0], why);
    }

    /// A list of another transaction may end only with the last of its appends.
    fn intermediate_reads(
        &mut self,
        uses: &Uses<'a>,
        elements: &[Element],
        writers: &[usize],
        reads: &[(usize, usize)],
    ) {
        let not_last = uses.appends.iter().flat_map(|(_, own)| &own[..own.len() - 1]);
        let not_last: HashSet<Element> = not_last.copied().collect();
        if not_last.is_empty() {
            return;
        }
        for &(reader, version) in reads {
            let Some(last) = version.checked_sub(1).map(|at| elements[at]) else {
                continue;
            };
            if not_last.contains(&last) {
                let writer = writers[version - 1];
                let why = format!("#{reader} read a list up to {last}, after which #{writer} appended more");
                self.report(Anomaly::IntermediateRead, vec![reader, writer], why);
            }
        }
    }

    /// Finds the appends that nobody has seen, and holds several of one transaction against its own order.
    fn judge_appends(&mut self, uses: &Uses<'a>, elements: &[Element]) -> Vec<(usize, Element)> {
        let at: HashMap<Element, usize> = elements.iter().enumerate().map(|(at, e)| (*e, at)).collect();
        let mut unobserved = Vec::new();
        for &(writer, own) in &uses.appends {
            let mut missing = None;
            let mut newest: Option<(usize, Element)> = None;
            for &element in own {
                let Some(&place) = at.get(&element) else {
                    missing.get_or_insert(element);
                    continue;
                };
                if let Some(lost) = missing {
                    let why =
                        format!("{lost} of #{writer} is in no list, though {element}, which it appended later, is");
                    self.report(Anomaly::LostAppend, vec![writer], why);
                }
                if let Some((_, before)) = newest.filter(|(newest, _)| *newest > place) {
                    let why = format!("{element} stands before {before}, though #{writer} appended it later");
                    self.report(Anomaly::IncompatibleOrders, vec![writer], why);
                }
                newest = newest.max(Some((place, element)));
            }
            unobserved.extend(missing.map(|element| (writer, element)));
        }
        unobserved
    }

    fn report(&mut self, anomaly: Anomaly, places: Vec<usize>, why: String) {
        self.findings.on_key(anomaly, self.views.keys[self.key], places, why);
    }
}
