/* plugin.c - the SPANK callbacks, and what their return values do.
 *
 * job_prolog, job_epilog and the remote init return success whatever happens: a failure
 * drains the node. So does one in user_init under sbatch, and srun would not even see
 * it: user_init keeps its error and task_init_privileged raises it. The client's
 * init_post_opt is the place to refuse: nothing has been submitted yet. */
#include <slurm/spank.h>

#include "spank/options.h"
#include "spank/settings.h"
#include "spank/step.h"
#include "spank/text.h"

/* Slurm takes only a negative value for a failure. ESPANK_ERROR is 3000 since 21.08: a
 * callback that returns it is reported and then ignored. */
#define FAILURE (-1)

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
        return FAILURE;
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
    return step_mount(sp) < 0 ? FAILURE : ESPANK_SUCCESS;
}

int slurm_spank_task_init(spank_t sp, int ac, char **av)
{
    step_activate(sp);
    return ESPANK_SUCCESS;
}

int slurm_spank_job_epilog(spank_t sp, int ac, char **av)
{
    struct settings settings = load_settings(ac, av);

    step_job_end(sp, &settings);
    return ESPANK_SUCCESS;
}
