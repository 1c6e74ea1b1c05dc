/* Showers in space that a reader can turn. Each .study-shower has a picture, which stays where there
   is no WebGL, and the figure as JSON, which takes the picture's place where there is. */
(function () {
  "use strict";
  const VIEWS = {
    "from the side": { x: 0.2, y: -2.8, z: 0.4 },
    "along the particle": { x: -2.8, y: 0.01, z: 0.01 },
    "aslant": { x: -1.7, y: -2.0, z: 1.1 },
  };
  const TURN = Math.PI / 18;

  function webgl() {
    try {
      const canvas = document.createElement("canvas");
      return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
    } catch (error) {
      return false;
    }
  }

  /* The eye, turned about the vertical by `about` and raised by `up`, in radians. */
  function turned(eye, about, up) {
    const r = Math.hypot(eye.x, eye.y, eye.z);
    const angle = Math.atan2(eye.y, eye.x) + about;
    const limit = Math.PI / 2 - 0.02;
    const height = Math.max(-limit, Math.min(limit, Math.asin(eye.z / r) + up));
    return {
      x: r * Math.cos(height) * Math.cos(angle),
      y: r * Math.cos(height) * Math.sin(angle),
      z: r * Math.sin(height),
    };
  }

  function show(group) {
    const plots = [];
    function look(eye) {
      for (const plot of plots) {
        window.Plotly.relayout(plot, { "scene.camera.eye": eye });
      }
    }
    for (const box of group.querySelectorAll(".study-shower")) {
      const source = box.querySelector('script[type="application/json"]');
      const picture = box.querySelector("img");
      const figure = JSON.parse(source.textContent);
      const plot = document.createElement("div");
      plot.className = "study-shower-plot";
      plot.tabIndex = 0;
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", picture.alt + " Arrow keys turn it.");
      box.insertBefore(plot, picture);
      window.Plotly.newPlot(plot, figure.data, figure.layout, {
        responsive: true,
        displayModeBar: false,
        scrollZoom: false,
      });
      picture.hidden = true;
      plots.push(plot);
      plot.addEventListener("keydown", function (event) {
        const step = {
          ArrowLeft: [-TURN, 0],
          ArrowRight: [TURN, 0],
          ArrowUp: [0, TURN],
          ArrowDown: [0, -TURN],
        }[event.key];
        if (step) {
          event.preventDefault();
          look(turned(plot.layout.scene.camera.eye, step[0], step[1]));
        }
      });
    }
    const bar = document.createElement("p");
    bar.className = "study-shower-views";
    bar.append("Look ");
    for (const [name, eye] of Object.entries(VIEWS)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "study-button";
      button.textContent = name;
      button.addEventListener("click", () => look(eye));
      bar.append(button, " ");
    }
    group.append(bar);
  }

  document.addEventListener("DOMContentLoaded", function () {
    if (window.Plotly && webgl()) {
      document.querySelectorAll(".study-showers").forEach(show);
    }
  });
})();
