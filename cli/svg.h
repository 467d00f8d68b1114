/* Charts as SVG: series of points with lines, markers and error bars, one or more
 * panels side by side under one legend. Readable on light and dark grounds; every
 * text is escaped. Same input, same bytes. */
#ifndef BD_CLI_SVG_H
#define BD_CLI_SVG_H

#include <stdbool.h>

#include "base/buf.h"

typedef struct bd_svg_series {
    const char *name; /* series of one name share colour, marker and legend entry over all panels */
    const double *x, *y;
    const double *err; /* half length of the error bars, or NULL */
    int n;      /* in the order the line takes; points that cannot be drawn (not finite, or not above zero on a
                 * log axis) are left out */
    bool faint; /* markers only */
} bd_svg_series;

typedef struct bd_svg_panel {
    const char *title, *x_label, *y_label;
    const bd_svg_series *series;
    int n_series;
    bool log_y;
} bd_svg_panel;

/* A whole SVG document, appended to `out` (its failure to grow is sticky). */
void bd_svg_chart(bd_buf *out, const char *title, const bd_svg_panel *panels, int n_panels);

#endif
