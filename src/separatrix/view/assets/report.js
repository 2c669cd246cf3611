(() => {
  "use strict";
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const coarse = window.matchMedia("(pointer: coarse)").matches;
  const payloads = new Map();
  const drawn = new Map();
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const narrow = () => window.innerWidth < 640;

  const kinds = { i4: Int32Array, f4: Float32Array, f8: Float64Array };
  const unpack = ({ dtype, bdata }) => {
    const text = atob(bdata);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new kinds[dtype](bytes.buffer);
  };

  const short = (value) => {
    if (Number.isNaN(value)) return "not measured";
    if (!Number.isFinite(value)) return "not finite";
    return String(Number(value.toPrecision(4)));
  };

  const axis = (title) => ({
    title: { text: title, font: { size: 12 }, standoff: 8 },
    gridcolor: colour("--grid"), linecolor: colour("--line"), zeroline: false, tickfont: { size: 11.5 },
    exponentformat: "power", minexponent: 4, automargin: true, separatethousands: true,
  });

  const base = (payload) => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", uirevision: "kept", separators: ".,",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--soft") },
    margin: { l: narrow() ? 44 : 60, r: narrow() ? 10 : 18, t: payload.rules.length ? 26 : 12, b: 40 },
    hoverlabel: { namelength: -1, bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink"), size: 12 } },
    dragmode: coarse ? false : "zoom", showlegend: false,
    xaxis: { ...axis("step"), showspikes: payload.kind === "lines", spikethickness: 1, spikedash: "dot", spikecolor: colour("--soft"), spikemode: "across" },
    shapes: payload.rules.map((rule) => ({
      type: "line", x0: rule.step, x1: rule.step, yref: "paper", y0: 0, y1: 1,
      line: { width: 1.25, dash: rule.kind === "segment" ? "dash" : "dot", color: colour("--ink") },
    })),
    annotations: payload.rules.slice(0, 6).map((rule) => ({
      x: rule.step, yref: "paper", y: 1, yanchor: "bottom", text: rule.text, showarrow: false,
      font: { size: 11, color: colour("--ink") },
    })),
  });

  const isolated = (y) => {
    const alone = [];
    for (let i = 0; i < y.length; i++) {
      if (Number.isFinite(y[i]) && !Number.isFinite(y[i - 1] ?? NaN) && !Number.isFinite(y[i + 1] ?? NaN)) alone.push(i);
    }
    return alone;
  };

  const lineTraces = (payload) => {
    const traces = [];
    payload.lines.forEach((line, index) => {
      const x = unpack(line.x), y = unpack(line.y), shade = colour(`--c${index % 8}`);
      const shared = { type: "scatter", name: line.name, hovertemplate: "%{y:.5~g}" };
      traces.push({
        ...shared, x, y, mode: y.length <= 60 && !line.held ? "lines+markers" : "lines", connectgaps: false,
        line: { color: shade, width: 1.6, shape: line.held ? "hv" : "linear", dash: index < 8 ? "solid" : "dash" },
        marker: { size: 5, color: shade }, showlegend: payload.lines.length > 1,
      });
      const alone = y.length > 60 || line.held ? isolated(y) : [];
      if (alone.length) {
        traces.push({
          ...shared, x: alone.map((i) => x[i]), y: alone.map((i) => y[i]), mode: "markers",
          marker: { size: 4, color: shade }, showlegend: false,
        });
      }
    });
    const strip = (name, symbol, height, items, shade) => ({
      type: "scatter", mode: "markers", yaxis: "y2", name, cliponaxis: false, hovertemplate: "%{text}<extra></extra>",
      x: items.map((item) => item.step ?? item.first), y: items.map(() => height), text: items.map((item) => item.text),
      marker: { symbol, size: 9, color: shade, line: { width: 1, color: colour("--card") } }, showlegend: true,
    });
    for (const level of payload.levels) {
      // A trace rather than a shape: the axis then reaches it.
      const ends = payload.lines.flatMap((line) => { const x = unpack(line.x); return [x[0], x[x.length - 1]]; });
      traces.push({
        type: "scatter", mode: "lines", x: [Math.min(...ends), Math.max(...ends)], y: [level.value, level.value],
        hoverinfo: "skip", showlegend: false, line: { width: 1.25, dash: "dash", color: colour("--warning") },
      });
    }
    if (payload.gaps.length) traces.push(strip("not finite", "x", 0.03, payload.gaps, colour("--bad")));
    for (const [severity, word] of [["info", "event"], ["warning", "event: warning"], ["error", "event: error"]]) {
      const items = payload.marks.filter((mark) => mark.severity === severity);
      const symbol = { info: "circle-open", warning: "triangle-down", error: "octagon" }[severity];
      if (items.length) traces.push(strip(word, symbol, 0.97, items, colour(`--${severity}`)));
    }
    return traces;
  };

  const lineLayout = (payload, log, element) => {
    const layout = base(payload);
    for (const gap of payload.gaps) {
      layout.shapes.push({
        type: "rect", layer: "below", x0: gap.first, x1: gap.last, yref: "paper", y0: 0, y1: 1,
        fillcolor: colour("--bad"), opacity: 0.16, line: { width: 1, color: colour("--bad") },
      });
    }
    for (const level of payload.levels) {
      layout.annotations.push({
        xref: "paper", x: 1, xanchor: "right", y: log ? Math.log10(level.value) : level.value, yanchor: "bottom",
        text: level.text, showarrow: false, font: { size: 11, color: colour("--warning") },
      });
    }
    layout.hovermode = "x";
    const named = payload.lines.length > 1 || payload.gaps.length || payload.marks.length;
    layout.showlegend = Boolean(named);
    if (named) layout.margin.b = 66;
    const inside = Math.max(60, element.clientHeight - layout.margin.t - layout.margin.b);
    layout.legend = { orientation: "h", x: 0, y: -42 / inside, yanchor: "top", font: { size: 12 } };
    layout.yaxis = { ...axis(narrow() ? "" : payload.y), type: log ? "log" : "linear" };
    if (log && payload.decades < 4) layout.yaxis.dtick = "D2";
    if (payload.flat !== null && !log) {
      const twice = 2 * payload.flat || 1;
      layout.yaxis.range = [Math.min(0, twice), Math.max(0, twice)];
    }
    if (payload.y === "B") layout.yaxis.tickformat = "~s";
    layout.yaxis2 = { overlaying: "y", range: [0, 1], visible: false, fixedrange: true };
    return layout;
  };

  const dim = { light: [[0, "#efdfb8"], [0.25, "#e9b96e"], [0.5, "#c8696b"], [0.75, "#7c3f7f"], [1, "#27245c"]],
    dark: [[0, "#22204d"], [0.25, "#6d3a7c"], [0.5, "#c2606d"], [0.75, "#edb25f"], [1, "#fbf3c8"]] };
  const diverging = { light: [[0, "#0b62a4"], [0.5, "#f5f3ef"], [1, "#b3471a"]], dark: [[0, "#6cb4ee"], [0.5, "#262a31"], [1, "#f2935c"]] };

  const cellTraces = (payload) => {
    const x = unpack(payload.x), z = unpack(payload.z), rows = payload.labels.length, columns = x.length - 1;
    const log = payload.scale === "log", shown = [], special = [], text = [];
    for (let r = 0; r < rows; r++) {
      const values = new Array(columns), states = new Array(columns), texts = new Array(columns);
      for (let c = 0; c < columns; c++) {
        const value = z[r * columns + c], zero = log && value === 0, bad = value === Infinity || value === -Infinity;
        values[c] = Number.isNaN(value) || zero || bad ? null : log ? Math.log10(value) : value;
        states[c] = zero ? 0 : bad ? 1 : null;
        texts[c] = Number.isNaN(value) ? "" : `${payload.labels[r]}<br>from step ${x[c].toLocaleString("en")}<br>${short(value)} ${payload.unit}`;
      }
      shown.push(values); special.push(states); text.push(texts);
    }
    const theme = root.dataset.theme;
    const shared = { type: "heatmap", x, y: payload.labels.map((_, i) => i), text, hovertemplate: "%{text}<extra></extra>", hoverongaps: false };
    const bar = {
      thickness: 10, outlinewidth: 0, tickfont: { size: 11 }, len: narrow() ? 0.9 : 1, title: { text: "" },
      ...(narrow() ? { orientation: "h", y: -0.17, yanchor: "top", thickness: 8, tickangle: 0 } : {}),
    };
    if (log) {
      const low = Math.ceil(payload.low), high = Math.floor(payload.high), stride = Math.max(1, Math.ceil((high - low) / (narrow() ? 3 : 6)));
      const ticks = [];
      for (let power = low; power <= high; power += stride) ticks.push(power);
      const small = (power) => (power >= -2 && power <= 3 ? String(Number((10 ** power).toPrecision(1))) : `10<sup>${power}</sup>`);
      if (ticks.length) Object.assign(bar, { tickvals: ticks, ticktext: ticks.map(small) });
    }
    const main = {
      ...shared, z: shown, zmin: payload.low, zmax: payload.high, colorbar: bar, name: "value",
      colorscale: (payload.scale === "signed" ? diverging : dim)[theme], xgap: 0, ygap: rows <= 60 ? 1 : 0,
    };
    const flagged = special.some((row) => row.some((state) => state !== null));
    const states = {
      ...shared, z: special, zmin: 0, zmax: 1, showscale: false, name: "special", ygap: main.ygap,
      colorscale: [[0, colour("--zero")], [1, colour("--bad")]],
    };
    return flagged ? [main, states] : [main];
  };

  const cellLayout = (payload, element) => {
    const layout = base(payload), rows = payload.labels.length;
    const room = Math.max(1, Math.floor((element.clientHeight - 70) / 13)), stride = Math.ceil(rows / room);
    const picked = payload.ticks.map((_, i) => i).filter((i) => i % stride === 0);
    const cut = (label) => (narrow() && !label.includes("&") && label.length > 15 ? `…${label.slice(-14)}` : label);
    layout.hovermode = "closest";
    layout.yaxis = {
      ...axis(""), range: [rows - 0.5, -0.5], tickvals: picked, ticktext: picked.map((i) => cut(payload.ticks[i])),
      showgrid: false, tickfont: { size: 11 }, ticks: "", tickangle: 0,
    };
    layout.xaxis.showgrid = false;
    if (narrow()) {
      Object.assign(layout.margin, { b: 70, l: 20 });
      layout.xaxis.title.text = "";
    }
    return layout;
  };

  // The plotting library takes a second to start; held back as plain text, it lets the verdict be read first.
  const startPlotting = () => {
    const source = document.getElementById("plotting");
    if (!source) return;
    const script = document.createElement("script");
    script.textContent = source.textContent;
    source.remove();
    document.head.append(script);
  };

  const draw = (figure) => {
    const payload = payloads.get(figure.id), element = figure.querySelector(".canvas");
    if (!payload) return;
    startPlotting();
    const toggle = figure.querySelector(".scale");
    const log = toggle ? toggle.getAttribute("aria-pressed") === "true" : false;
    const cells = payload.kind === "cells";
    const layout = cells ? cellLayout(payload, element) : lineLayout(payload, log, element);
    const config = {
      responsive: true, displaylogo: false, doubleClick: "reset", displayModeBar: coarse ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d", "zoom2d"],
    };
    Plotly.react(element, cells ? cellTraces(payload) : lineTraces(payload), layout, config);
    drawn.set(figure.id, figure);
    figure.dataset.drawn = "true";
  };

  const redraw = () => drawn.forEach(draw);
  const themeButton = document.getElementById("theme");
  const setTheme = (name) => {
    root.dataset.theme = name;
    themeButton.setAttribute("aria-pressed", String(name === "dark"));
    redraw();
  };
  themeButton.addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));
  dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));

  const figures = [...document.querySelectorAll("figure.plot")];
  for (const script of document.querySelectorAll("script[data-plot]")) payloads.set(script.dataset.plot, JSON.parse(script.textContent));
  for (const figure of figures) {
    const toggle = figure.querySelector(".scale"), payload = payloads.get(figure.id);
    if (!toggle || !payload) continue;
    toggle.setAttribute("aria-pressed", String(payload.log));
    toggle.addEventListener("click", () => {
      toggle.setAttribute("aria-pressed", String(toggle.getAttribute("aria-pressed") !== "true"));
      draw(figure);
    });
  }
  setTheme(dark.matches ? "dark" : "light");

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "400px 0px" });
  const begin = () => {
    figures.forEach((figure) => near.observe(figure));
    arrive();
  };

  const arrive = () => {
    const target = location.hash.length > 1 ? document.getElementById(location.hash.slice(1)) : null;
    document.querySelectorAll(".plot.shown").forEach((figure) => figure.classList.remove("shown"));
    if (!target || !target.classList.contains("plot")) return;
    target.classList.add("shown");
    if (!drawn.has(target.id)) draw(target);
    target.focus({ preventScroll: true });
  };
  window.addEventListener("hashchange", arrive);
  requestAnimationFrame(() => setTimeout(begin, 0));

  let wide = !narrow();
  window.addEventListener("resize", () => {
    if (wide === !narrow()) return;
    wide = !narrow();
    drawn.forEach((figure) => Plotly.purge(figure.querySelector(".canvas")));
    redraw();
  });

  let screenTheme = null;
  window.addEventListener("beforeprint", () => {
    screenTheme = root.dataset.theme;
    root.dataset.theme = "light";
    figures.forEach(draw);
  });
  window.addEventListener("afterprint", () => setTheme(screenTheme ?? "light"));
})();
