/* A tab of a deployment that is renewed when something changed, and needs no more. */

import * as live from "./live.js";

live.start({});
