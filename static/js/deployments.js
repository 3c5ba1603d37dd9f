/* The list of deployments: live numbers, filter, row menu. */

import "./filter.js";
import "./rowmenu.js";
import * as live from "./live.js";
import * as rows from "./rows.js";

live.start({ onFrame: rows.remember, onNumbers: rows.paintAll });
addEventListener("hearth:part", rows.paintAll);
