"use strict";
// The cursor of an episode, its camera, and the zoom of a joint group. Everything is drawn already.
for (const episode of document.querySelectorAll(".episode")) {
  const steps = Number(episode.dataset.steps);
  const fps = Number(episode.dataset.fps);
  const points = episode.dataset.points.split(" ").map(Number);
  const time = episode.querySelector(".time");
  const plots = [...episode.querySelectorAll(".plot svg")].map((svg) => ({
    svg,
    low: Number(svg.dataset.low),
    high: Number(svg.dataset.high),
    cursor: svg.querySelector(".cursor"),
    read: svg.closest(".joint").querySelector(".read"),
    curves: ["recorded", "b"].map((name) => heights(svg.querySelector(".line." + name))),
  }));

  // Step to height, of a curve as it is drawn.
  function heights(path) {
    const points = path.getAttribute("d").slice(1).split("L").map((point) => point.split(" ").map(Number));
    return new Map(points);
  }

  function show(step) {
    const asked = points.filter((point) => point <= step);
    const seconds = fps > 0 ? " · " + (step / fps).toFixed(2) + " s" : "";
    time.textContent = "step " + step + seconds + " · inference " + Math.max(asked.length - 1, 0);
    for (const frame of episode.querySelectorAll(".frame")) {
      const frames = Number(frame.dataset.frames);
      const shown = Math.min(Math.floor(step / Number(frame.dataset.stride)), frames - 1);
      frame.style.backgroundPosition = (frames > 1 ? (shown / (frames - 1)) * 100 : 0) + "% 0";
    }
    for (const plot of plots) {
      plot.cursor.setAttribute("d", "M" + step + " 0V100");
      const value = (heights) => {
        const height = heights.get(step);
        return height === undefined ? "–" : (plot.high - (height / 100) * (plot.high - plot.low)).toPrecision(3);
      };
      plot.read.textContent = "predicted " + value(plot.curves[1]) + ", recorded " + value(plot.curves[0]);
    }
  }

  for (const group of episode.querySelectorAll(".group")) {
    const svgs = [...group.querySelectorAll(".plot svg")];
    const whole = group.querySelector(".whole");
    let range = [0, Math.max(steps - 1, 1)];

    function zoom(first, last) {
      range = [first, last];
      whole.hidden = first === 0 && last === Math.max(steps - 1, 1);
      for (const svg of svgs) {
        svg.setAttribute("viewBox", first + " 0 " + (last - first) + " 100");
        const [left, right] = svg.parentElement.querySelectorAll(".steps span");
        [left.textContent, right.textContent] = [first, last];
      }
    }

    const reset = () => zoom(0, Math.max(steps - 1, 1));
    whole.addEventListener("click", reset);
    for (const svg of svgs) {
      const stepAt = (event) => {
        const box = svg.getBoundingClientRect();
        const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
        return Math.min(Math.round(range[0] + share * (range[1] - range[0])), steps - 1);
      };
      let from = null;
      svg.addEventListener("pointerdown", (event) => { from = stepAt(event); });
      svg.addEventListener("pointermove", (event) => show(stepAt(event)));
      svg.addEventListener("pointerup", (event) => {
        const to = stepAt(event);
        show(to);
        // Less is a click.
        if (from !== null && Math.abs(to - from) >= Math.max(3, (range[1] - range[0]) / 50)) {
          zoom(Math.min(from, to), Math.max(from, to));
        }
        from = null;
      });
      svg.addEventListener("pointercancel", () => { from = null; });
      svg.addEventListener("dblclick", reset);
    }
  }
}
