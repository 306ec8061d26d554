// What server and page say to each other: docs/protocol.md.

export const VERSION = 1;

/** Codes with which the server closes for good, and what to do then. */
export const FINAL = {
  4401: "This session asks for a token: open the link that the server printed, with all that is behind its #.",
  4426: "The server speaks another version than this page: load the page again.",
};

/** A pass as {header, pictures}: length of the header (uint32, little-endian), header (JSON), and so each JPEG. */
export function unpack(buffer) {
  const view = new DataView(buffer);
  const parts = [];
  let at = 0;
  while (at < buffer.byteLength) {
    const length = view.getUint32(at, true);
    parts.push(new Uint8Array(buffer, at + 4, length));
    at += 4 + length;
  }
  const header = JSON.parse(new TextDecoder().decode(parts[0]));
  return { header, pictures: parts.slice(1) };
}
