/* "Did you mean": the nearest of a list of names by edit distance. */
#ifndef BD_BASE_NEAREST_H
#define BD_BASE_NEAREST_H

/* The name of `names` (n) nearest to `word`, or NULL if none is near enough to be meant. */
const char *bd_nearest(const char *word, const char *const *names, int n);
/* Does `name` match `pattern`, in which `*` stands for any run of characters? */
int bd_glob(const char *pattern, const char *name);

#endif
