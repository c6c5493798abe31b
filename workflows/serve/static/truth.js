// Annotations that the user has beside the video: ActivityNet JSON, CSV or WebVTT, read here in the page.

/** Segments [{label, start, end}] of a file's text. Throws Error with words for the user. */
export function parseTruth(text, videoName) {
  const body = text.replace(/^\uFEFF/, "").trim();
  const found = body.startsWith("WEBVTT") ? fromVtt(body) : body.startsWith("{") ? fromActivityNet(body, videoName) : fromCsv(body, videoName);
  const segments = found.filter(({ label, start, end }) => label && Number.isFinite(start) && Number.isFinite(end) && start >= 0 && start < end);
  if (!segments.length) throw new Error("There are no steps in this file.");
  return segments.sort((a, b) => a.start - b.start);
}

const stem = (name) => name.split("/").at(-1).replace(/\.[^.]+$/, "").toLowerCase();

// A file may tell of many videos: the one with our name, else the only one.
function choose(names, videoName) {
  const match = [...names].find((name) => stem(name) === stem(videoName) || name.toLowerCase() === stem(videoName));
  if (match !== undefined) return match;
  if (names.size === 1) return [...names][0];
  throw new Error(`This file tells of ${names.size} videos, but none is named ${stem(videoName)}.`);
}

function fromActivityNet(text, videoName) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("This file is not whole: its JSON cannot be read.");
  }
  const videos = value.database ?? value.results;
  if (!videos || typeof videos !== "object" || !Object.keys(videos).length) throw new Error("This JSON is not of the ActivityNet kind (database or results).");
  const entry = videos[choose(new Set(Object.keys(videos)), videoName)];
  const list = Array.isArray(entry) ? entry : entry.annotations ?? [];
  return list.map(({ label, segment }) => ({ label: String(label), start: Number(segment?.[0]), end: Number(segment?.[1]) }));
}

function fromCsv(text, videoName) {
  const [head, ...rows] = text.split(/\r?\n/).filter((line) => line.trim()).map(fields);
  const at = Object.fromEntries((head ?? []).map((name, i) => [name.trim().toLowerCase(), i]));
  if (!["label", "start", "end"].every((name) => name in at)) throw new Error("Expected a table with the columns label, start and end, or ActivityNet JSON, or WebVTT.");
  const video = at.video_id ?? at.video ?? null;
  const wanted = video === null || !rows.length ? null : choose(new Set(rows.map((row) => row[video])), videoName);
  return rows.filter((row) => wanted === null || row[video] === wanted)
    .map((row) => ({ label: row[at.label]?.trim(), start: Number(row[at.start]), end: Number(row[at.end]) }));
}

// The fields of a line of CSV; a quoted one may hold commas and doubled quotes.
function fields(line) {
  return [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, quoted, plain]) => (quoted === undefined ? plain : quoted.replaceAll('""', '"')));
}

function fromVtt(text) {
  const seconds = (clock) => clock.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
  return text.split(/\r?\n\r?\n/).flatMap((block) => {
    const lines = block.split(/\r?\n/);
    const at = lines.findIndex((line) => line.includes("-->"));
    if (at < 0) return [];
    const [start, end] = lines[at].split("-->").map((side) => side.trim().split(/\s/)[0]);
    const label = lines.slice(at + 1).join(" ").replace(/<[^>]*>/g, "").replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&").trim();
    // Our own subtitles end with the score.
    return [{ label: label.replace(/ \d+%$/, ""), start: seconds(start), end: seconds(end) }];
  });
}
