/* plugin.c - the SPANK callbacks, and what their return values do.
 *
 * job_prolog, job_epilog and the remote init return success whatever happens: a failure
 * drains the node. So does one in user_init under sbatch, and srun would not even see
 * it: user_init keeps its error and task_init_privileged raises it. The client's
 * init_post_opt is the place to refuse: nothing has been submitted yet.
 *
 * Slurm heeds a callback's failure only of a plugin that plugstack.conf calls
 * `required`; but a required plugin that cannot be loaded, say after an upgrade of
 * Slurm, fails every job. So admins write `optional`, and the two places that must fail
 * end their process themselves, just as Slurm would: the client before it has submitted
 * anything, and the task's own process before it becomes the user's program. */
#include <slurm/spank.h>
#include <stdlib.h>
#include <unistd.h>

#include "spank/options.h"
#include "spank/settings.h"
#include "spank/step.h"
#include "spank/text.h"

SPANK_PLUGIN(vine_env, 1)

static struct settings load_settings(int ac, char **av)
{
    struct settings settings;
    struct vine_err err = {0};

    if (settings_load(ac, av, &settings, &err) < 0)
        slurm_info("vine-env: %s: using the defaults", err.text);
    return settings;
}

int slurm_spank_init(spank_t sp, int ac, char **av)
{
    const char *unknown = settings_unknown(ac, av);

    /* slurmd loads us once a start: the right place, and no user reads it. */
    if (spank_context() == S_CTX_SLURMD && unknown != NULL)
        slurm_error("vine-env: ignoring '%.60s' in plugstack.conf: the words are "
                    "config=PATH and socket=PATH",
                    unknown);
    (void)options_register(sp);
    return ESPANK_SUCCESS;
}

int slurm_spank_init_post_opt(spank_t sp, int ac, char **av)
{
    struct vine_err err = {0};
    spank_context_t context = spank_context();

    if (context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR)
        return ESPANK_SUCCESS;
    if (options_check_client(&err) < 0) {
        text_clean(err.text);
        slurm_error("vine-env: %s", err.text);
        exit(EXIT_FAILURE);
    }
    return ESPANK_SUCCESS;
}

int slurm_spank_job_prolog(spank_t sp, int ac, char **av)
{
    struct settings settings = load_settings(ac, av);

    step_job_begin(sp, &settings);
    return ESPANK_SUCCESS;
}

int slurm_spank_user_init(spank_t sp, int ac, char **av)
{
    struct settings settings = load_settings(ac, av);

    step_stage(sp, &settings);
    return ESPANK_SUCCESS;
}

int slurm_spank_task_init_privileged(spank_t sp, int ac, char **av)
{
    if (step_mount(sp) < 0)
        _exit(EXIT_FAILURE);
    return ESPANK_SUCCESS;
}

int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
    step_activate(sp);
    return ESPANK_SUCCESS;
}

int slurm_spank_task_exit(spank_t sp, int ac, char **av)
{
    struct settings settings = load_settings(ac, av);

    step_task_exit(sp, &settings);
    return ESPANK_SUCCESS;
}

int slurm_spank_job_epilog(spank_t sp, int ac, char **av)
{
    struct settings settings = load_settings(ac, av);

    step_job_end(sp, &settings);
    return ESPANK_SUCCESS;
}
