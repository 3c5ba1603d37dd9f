/* The catalog: filters as one types. */

import "./filter.js";
