// The connection: says hello, hands on what comes, and comes back after a loss, later each time.

import { FINAL, VERSION, unpack } from "./protocol.js";

const WAITS = [0.5, 1, 2, 4, 5]; // seconds; the last for all further tries
const PING_EVERY = 1000; // milliseconds

export class Socket {
  /**
   * Calls back: on.message(object) for text, on.pass(header, pictures) for a pass of the model, on.opened(),
   * on.lost(seconds, code) where it tries again by itself after so many seconds, or never (null).
   */
  constructor(token, on) {
    this.token = token;
    this.on = on;
    this.tries = 0;
    setInterval(() => this.send("ping", { ts: performance.now() }), PING_EVERY);
  }

  get open() {
    return this.link?.readyState === WebSocket.OPEN;
  }

  /** Begin anew as "driver" or "viewer". */
  connect(role, takeover = false) {
    clearTimeout(this.timer);
    this.role = role;
    this.retry = true;
    const old = this.link;
    const address = new URL("session", document.baseURI); // relative, so that a proxy's prefix stays
    address.protocol = address.protocol.replace("http", "ws");
    const link = new WebSocket(address);
    this.link = link;
    old?.close();
    link.binaryType = "arraybuffer";
    link.onopen = () => {
      this.send("hello", { version: VERSION, role, token: this.token, takeover, thin: true });
      this.on.opened();
    };
    link.onmessage = ({ data }) => link === this.link && this.#received(data);
    link.onclose = ({ code }) => link === this.link && this.#closed(code);
  }

  /** Stay away after the link closes. */
  giveUp() {
    this.retry = false;
  }

  send(type, fields = {}) {
    if (this.open) this.link.send(JSON.stringify({ type, ...fields }));
  }

  #received(data) {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.type === "welcome") this.tries = 0;
      this.on.message(message);
      return;
    }
    const { header, pictures } = unpack(data);
    // At once, not when it has been shown: what waits for its turn on the screen is no longer on the link, and it is
    // the link that the server's window protects.
    this.send("ack", { number: header.number });
    this.on.pass(header, pictures);
  }

  #closed(code) {
    const wait = this.retry && !(code in FINAL) ? WAITS[Math.min(this.tries, WAITS.length - 1)] : null;
    this.tries += 1;
    if (wait !== null) this.timer = setTimeout(() => this.connect(this.role), 1000 * wait);
    this.on.lost(wait, code);
  }
}
