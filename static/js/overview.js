/* The overview: fleet charts and the busiest deployments. */

import "./rowmenu.js";
import * as charts from "./charts.js";
import * as live from "./live.js";
import * as rows from "./rows.js";

charts.build(JSON.parse(document.getElementById("history").textContent));
live.start({
  onFrame: (at) => {
    charts.push(at, live.row("fleet", ""));
    rows.remember();
  },
  onNumbers: () => {
    charts.paint();
    rows.paintAll();
  },
});
