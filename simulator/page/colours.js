// One colour for each control, the same in its slider and in the plot; seen on light and on dark.

const COLOURS = ["#3b7de9", "#e0700f", "#12a07a", "#d4479b", "#8a63e8", "#b38a12", "#0d9fb5", "#e04848"];

export function colour(i) {
  return COLOURS[i % COLOURS.length];
}

/** Lines of a plot whose colours come again are dashed. */
export function dash(i) {
  return i < COLOURS.length ? [] : [3, 3];
}
