// The red dot, and how long it has been there.

export class Recording {
  constructor(place, time) {
    this.place = place;
    this.time = time;
    this.since = null;
    setInterval(() => this.#tick(), 500);
  }

  show(on) {
    this.place.hidden = !on;
    this.since = on ? (this.since ?? performance.now()) : null;
    this.#tick();
  }

  #tick() {
    if (this.since === null) return;
    const seconds = Math.floor((performance.now() - this.since) / 1000);
    this.time.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }
}
