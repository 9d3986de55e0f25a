import HMMLive
import HMMScenario
