"use strict";
(() => {
  const data = JSON.parse(document.getElementById("playground-data").textContent);
  const raw = atob(data.curves);
  const numbers = new Float64Array(raw.length / 2);
  for (let i = 0; i < numbers.length; i++) {
    numbers[i] = data.low + data.step * (raw.charCodeAt(2 * i) + 256 * raw.charCodeAt(2 * i + 1));
  }
  const find = (name) => document.getElementById("playground-" + name);
  const svg = find("plot");
  const period = find("period");
  const initial = find("initial");
  const held = find("held-out");
  const TOP = 4.3, BOTTOM = -0.6;  // of the axis, in the units of x
  const LEFT = 28, CEILING = 8;
  let RIGHT, FLOOR;
  const across = (t) => LEFT + (RIGHT - LEFT) * t / data.steps;
  const up = (x) => FLOOR - (FLOOR - CEILING) * (Math.min(Math.max(x, BOTTOM), TOP) - BOTTOM) / (TOP - BOTTOM);
  const points = (curve) => curve.map((x, t) => across(t).toFixed(1) + "," + up(x).toFixed(1)).join(" ");

  const draw = (kind, name) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
    made.setAttribute("class", name);
    svg.append(made);
    return made;
  };
  const write = (text, x, y, anchor) => {
    const made = draw("text", "label");
    made.setAttribute("x", x);
    made.setAttribute("y", y);
    made.setAttribute("text-anchor", anchor);
    made.textContent = text;
  };
  const rule = (x1, y1, x2, y2) => {
    const made = draw("line", "rule");
    Object.entries({ x1, y1, x2, y2 }).forEach(([name, value]) => made.setAttribute(name, value));
  };
  // A unit is a pixel at every width, so that text stays readable on a phone.
  let band, samples, truth;
  const layOut = () => {
    const box = svg.getBoundingClientRect();
    if (!box.width) return;  // in a closed fold
    RIGHT = box.width - 8;
    FLOOR = box.height - 26;
    svg.replaceChildren();
    svg.setAttribute("viewBox", "0 0 " + box.width + " " + box.height);
    for (let x = 0; x < TOP; x++) {
      rule(LEFT, up(x), RIGHT, up(x));
      write(x, LEFT - 8, up(x) + 4, "end");
    }
    for (let t = 0; t <= data.steps; t += 5) {
      rule(across(t), FLOOR, across(t), FLOOR + 4);
      write(t === data.steps ? "t = " + t : t, across(t), FLOOR + 20, t === data.steps ? "end" : "middle");
    }
    band = draw("polygon", "band");
    samples = Array.from({ length: data.samples }, () => draw("polyline", "sample"));
    truth = draw("polyline", "truth");
    redraw();
  };

  // Equation 3 of the paper.
  const curveOf = (T, drawn) => Array.from({ length: data.steps + 1 }, (_, t) => {
    const left = data.alpha + (data.total_time - t) / data.total_time;
    return drawn * (left * (1 + Math.cos(2 * Math.PI * T * t / data.total_time)) / 2 + data.beta);
  });

  const redraw = () => {
    if (!truth) return;
    const p = Number(period.value), i = Number(initial.value);
    const T = data.periods[p], drawn = data.initials[i];
    const expected = curveOf(T, drawn);
    const curves = data.samples + 2;
    const curve = (k, first) => {
      const start = ((p * data.initials.length + i) * curves + k) * data.steps;
      return [first, ...numbers.subarray(start, start + data.steps)];
    };
    const mean = curve(0, expected[0]), deviation = curve(1, 0);
    const high = mean.map((x, t) => x + 2 * deviation[t]), low = mean.map((x, t) => x - 2 * deviation[t]);
    const back = low.map((x, t) => across(t).toFixed(1) + "," + up(x).toFixed(1)).reverse().join(" ");
    band.setAttribute("points", points(high) + " " + back);
    samples.forEach((line, k) => line.setAttribute("points", points(curve(k + 2, expected[0]))));
    truth.setAttribute("points", points(expected));
    const inside = expected.filter((x, t) => t > 0 && x >= low[t] && x <= high[t]).length;
    const known = data.trained.includes(T) ? "trained on" : "not in training";
    find("period-value").textContent = T.toFixed(3).replace(/0+$/, "").replace(/\.$/, ".0") + ", " + known;
    find("initial-value").textContent = drawn.toFixed(1);
    period.setAttribute("aria-valuetext", find("period-value").textContent);
    initial.setAttribute("aria-valuetext", find("initial-value").textContent);
    find("inside").textContent = inside + " of " + data.steps + " steps";
  };
  [[period, data.periods], [initial, data.initials]].forEach(([slider, values]) => {
    slider.max = values.length - 1;
    slider.addEventListener("input", redraw);
  });
  data.held_out.forEach((T) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "T = " + T;
    button.addEventListener("click", () => { period.value = data.periods.indexOf(T); redraw(); });
    held.append(button);
  });
  period.value = data.periods.indexOf(2);
  initial.value = data.initials.indexOf(3);
  find("controls").hidden = false;
  new ResizeObserver(layOut).observe(svg);
})();
