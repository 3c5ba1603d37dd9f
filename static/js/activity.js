/* The feed: new events come in at the top while the reader is there. */

import "./filter.js";
import * as live from "./live.js";

live.start({});
