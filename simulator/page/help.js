// The help: which keys do what, for this robot.

import { byId, element } from "./element.js";
import { DESCRIPTIONS } from "./transport.js";

export function writeHelp({ columns, granularity_ms: granularity, frames_per_pass: frames, fps }, captions) {
  byId("granularity").textContent =
    `The model makes ${frames} frames at a time, at ${fps} frames a second: ` +
    `a control can matter every ${Math.round(granularity)} ms.`;
  const moves = columns
    .map((column, i) => [captions[i], column])
    .filter(([keys]) => keys)
    .map(([keys, { name }]) => line(keys, `${name} less, more`));
  const session = DESCRIPTIONS.map(([key, text]) => line([key], text));
  const pad = line(["Gamepad"], "sticks, triggers; Start and Back to start and reset");
  byId("help-keys").replaceChildren(element("ul", {}, ...moves, pad), element("ul", {}, ...session));
}

function line(keys, text) {
  return element("li", {}, ...keys.flatMap((key) => [element("kbd", { textContent: key }), " "]), text);
}
