// Writes a line a test for the table: feature, verdict, seconds, test. A test is called `feature: what holds`.
'use strict';

module.exports = async function* reporter(events) {
  for await (const { type, data } of events) {
    if (type !== 'test:pass' && type !== 'test:fail') continue;
    // A file's own line fails with its tests, and has no feature; one that could not be loaded has nothing else to show.
    const colon = data.name.indexOf(': ');
    if (colon < 0 && type === 'test:pass') continue;
    const feature = colon < 0 ? 'loading' : data.name.slice(0, colon);
    const verdict = type === 'test:pass' && data.skip === undefined ? 'pass' : 'fail';
    yield `${feature}\t${verdict}\t${(data.details.duration_ms / 1000).toFixed(3)}\t${data.name.slice(colon + 1).trim()}\n`;
  }
};
